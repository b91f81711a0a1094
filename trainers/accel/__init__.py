"""CPU kernels for batch norm, which make runs on a CPU 20 to 33 % faster.

- ``norms``: the interface. PyTorch's operations compute whatever :func:`norms.serves` declines.
- ``kernels``: the code that Numba compiles. ``width``: the number of channels that it processes at once.
"""
