"""The number of channels that the kernels process at once, in a file of its own that needs neither torch nor Numba."""

#: Tensors must have a multiple of this number of channels. Also edit ``kernels.py`` when you change it: Numba keeps its
#: compiled code until that file changes.
LANES = 16
