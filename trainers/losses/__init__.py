"""The methods' losses and heads; their entries in ``trainers/methods`` import them when a run starts.

- ``criterion``: what all losses have in common.
- ``fixmatch``, ``moco``, ``byol``, ``supervised``: one loss each, with its heads.
"""
