"""The methods: their equations, their fields and what distinguishes their training steps, without torch.

- ``method``: :class:`Method`, the form of an entry.
- ``fixmatch``, ``moco``, ``byol``, ``supervised``: one entry each. Losses and heads are in ``trainers/losses``.
- ``momentum``: schedules of the teacher's momentum.
- ``registry``: every method by name.
"""
