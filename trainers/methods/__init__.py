"""The methods: equations, fields and the differences between training steps, without torch.

- ``method``: :class:`Method`, the declaration of a method.
- ``fixmatch``, ``moco``, ``byol``, ``supervised``: one method each. Losses and heads are in ``trainers/losses``.
- ``momentum``: schedules of the teacher's momentum.
- ``registry``: every method by name.
"""
