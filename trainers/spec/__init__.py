"""Typed specifications of training runs.

- ``kinds``: what a field may hold, read from its type; parses and describes values.
- ``section``: the base class of every section; turns validation errors into one line.
- ``sections``: the sections that all methods share (a method's own section stands in its file in ``methods``).
- ``run``: :class:`RunSpec`, which is made of sections, and its key.
- ``build``: makes a run's specification from a method, a scheme and flat fields.
- ``labels``: the names of schemes and runs that people see.
- ``fields``: lists the fields of a method and parses ``--set NAME=VALUE``.

Nothing here imports torch.
"""
