"""Training: specifications of runs, and everything that trains them.

- ``spec``: specifications of runs. ``methods``: declarations of the methods; ``losses``: their losses and heads.
- ``norm``: normalization of student and teacher. ``backbones``: feature extractors.
- ``data``: data sets, label sets, sample order, loading. ``views``: augmentations.
- ``batches``, ``networks``, ``optim``, ``sgd``: parts of a run; ``training``: its step and state; ``loop``: ``fit``.
- ``distributed``: workers. ``precision``: autocast. ``accel``: CPU kernels for batch norm.
"""
