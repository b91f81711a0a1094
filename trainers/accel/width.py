"""How many channels the kernels work on at once. It stands apart so that reading it imports neither torch nor Numba."""

#: A tensor must have a multiple of these channels. Whoever changes it must change ``kernels.py`` too: Numba keeps
#: machine code until that file changes.
LANES = 16
