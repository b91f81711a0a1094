"""Training: what a run is, and how it is trained.

- ``spec``: specifications of runs. ``methods``: FixMatch, MoCo, BYOL as data; ``losses``: their losses and heads.
- ``norm``: how student and teacher normalize. ``backbones``: feature extractors.
- ``data``: data sets, label sets, order, loading. ``views``: augmentations.
- ``batches``, ``networks``, ``optim``, ``sgd``: parts of a run; ``training``: its step and state; ``loop``: ``fit``.
- ``distributed``: workers. ``precision``: autocast. ``accel``: CPU kernels for batch norms.
"""
