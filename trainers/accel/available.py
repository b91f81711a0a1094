"""Whether Triton is installed; PyTorch's builds for some systems leave it out."""

from functools import cache
from importlib.util import find_spec


@cache
def has_triton() -> bool:
    """Return whether Triton is installed."""
    return find_spec("triton") is not None
