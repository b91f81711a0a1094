"""Exponential moving average normalization (EMAN) in student-teacher training, and a platform to study it.

Parts for use in other projects, which need no more than torch::

    from eman import Teacher, convert_norm, Scheme

:mod:`eman.api` has what modules of one's own use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eman.trainers.norm.convert import convert_norm
    from eman.trainers.norm.schemes import Scheme
    from eman.trainers.norm.teacher import Teacher

__version__ = "0.1.0"

__all__ = ["Scheme", "Teacher", "convert_norm"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'eman' has no attribute {name!r}")
    from importlib import import_module

    module = {"Scheme": "schemes", "Teacher": "teacher", "convert_norm": "convert"}[name]
    return getattr(import_module(f"eman.trainers.norm.{module}"), name)
