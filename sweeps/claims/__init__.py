"""Claims that the tables' runs can support or contradict, as data.

- ``paper``: what the paper says. ``ours``: what this project found.
- ``registry``: all claims by name, and the runs that they need.
"""
