"""Kernels.

- ``norms``: batch norm over devices. PyTorch's operations compute whatever :func:`norms.serves` declines.
- ``cpu``: for CPUs, where they make runs 20 to 33 % faster. ``kernels`` is the code that Numba compiles, ``width`` the
  number of channels that it processes at once.
- ``gpu``, ``gpu_colour``: for GPUs, compiled by Triton: batch norm, and colour changes of views.
- ``available``: whether Triton is installed.
"""
