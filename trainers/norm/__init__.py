"""How student and teacher normalize.

- ``schemes``: the rows of Tables 1 and 8, and what each teacher norm declares. No torch.
- ``device_bn``, ``sync``: batch norm over devices and over workers.
- ``statistics``: finding, measuring, sharing and averaging running statistics.
- ``convert``: replacing the batch norms of any network.
- ``teacher``: the teacher; ``policies`` (layers, passes) and ``averaging`` (Eqs. 1 and 9) carry out its declaration.
"""
