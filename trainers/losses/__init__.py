"""The methods' losses and heads, imported when a run starts.

- ``criterion``: the interface of all losses.
- ``fixmatch``, ``moco``, ``byol``, ``supervised``: one method's loss and heads each.
"""
