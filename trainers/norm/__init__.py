"""Normalization of student and teacher.

- ``schemes``: norms of students and teachers, and their pairs, the rows of tables, as data. No torch.
- ``device_bn``, ``sync``: batch norm over devices and over workers; ``momentum_bn``: Momentum^2's.
- ``activated``: norms with their own activation; ``weights``: weight standardization.
- ``statistics``: find, compute, share and average running statistics.
- ``convert``: replace the batch norms of any network; ``kinds`` finds its norms, ``inner`` keeps what else they do.
- ``teacher``: :class:`Teacher`; ``policies`` implements its layers and passes, ``averaging`` Eqs. (1) and (9).
"""
