"""Normalization of student and teacher.

- ``schemes``: the rows of Tables 1 and 8 and the teacher norms, as data. No torch.
- ``device_bn``, ``sync``: batch norm over devices and over workers.
- ``statistics``: find, compute, share and average running statistics.
- ``convert``: replace the batch norms of any network.
- ``teacher``: :class:`Teacher`; ``policies`` implements its layers and passes, ``averaging`` Eqs. (1) and (9).
"""
