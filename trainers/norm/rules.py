"""Norms and rules of one's own, as code: how a teacher's running statistics follow, and checks of what is registered.

Shapes: N images, C channels.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from eman.platform.errors import UserError, first_line


class StatisticsRule(nn.Module):
    """How a teacher's running statistics follow its student's, as code; see ``TeacherNorm.statistics``.

    What it has to remember between steps are buffers, so that a resumed run has them.

    Args:
        statistics: The teacher's running statistics, mean and variance of each batch norm in turn, ``(C,)`` each, as
            they are at the start: a copy of the student's.
    """

    def __init__(self, statistics: list[Tensor]) -> None:
        super().__init__()

    def move(self, teacher: list[Tensor], student: list[Tensor], momentum: float | Tensor) -> None:
        """Change the teacher's statistics in place, once per step and without gradient.

        Nothing may be read on the host (``.item()``, ``if`` on a tensor): a GPU replays the step as one CUDA graph.

        Args:
            teacher: The teacher's statistics, ordered as in the constructor.
            student: The student's.
            momentum: m of Eq. (9): a number, or a scalar tensor.
        """
        raise NotImplementedError


def check_rule(name: str, rule: object) -> None:
    """Raise :class:`UserError` unless a rule is a class that moves statistics, and keeps them finite."""
    if not (isinstance(rule, type) and issubclass(rule, StatisticsRule)) or rule.move is StatisticsRule.move:
        raise UserError(
            f"teacher norm {name!r}: statistics is {rule!r}; give a Move, or a class derived from StatisticsRule that "
            f"has move(teacher, student, momentum)."
        )
    teacher, student = ([torch.full((3,), value), torch.full((3,), value)] for value in (1.0, 2.0))
    try:
        with torch.no_grad():
            rule([x.clone() for x in teacher]).move(teacher, student, 0.9)
    except Exception as error:
        raise UserError(
            f"teacher norm {name!r}: its rule fails on two statistics of three channels ({type(error).__name__}: "
            f"{first_line(error)})."
        ) from error
    if not all(x.isfinite().all() for x in teacher):
        raise UserError(f"teacher norm {name!r}: its rule makes statistics that are not finite from finite ones.")


def check_layer(name: str, layer: Callable[[int, bool], nn.Module]) -> None:
    """Raise :class:`UserError` unless a layer keeps its input's shape and treats every image by itself."""
    for vectors, shape in ((False, (4, 16, 5, 5)), (True, (4, 16))):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                made = layer(16, vectors)
                together, alone = made(x), made(x[:1])
        except Exception as error:
            raise UserError(
                f"norm {name!r}: its layer fails on inputs of shape {shape} ({type(error).__name__}: "
                f"{first_line(error)}); layer(channels, vectors) must take maps and vectors."
            ) from error
        if together.shape != x.shape:
            raise UserError(f"norm {name!r}: its layer turns shape {shape} into {tuple(together.shape)}; keep it.")
        if not torch.allclose(together[:1], alone, atol=1e-5):
            raise UserError(
                f"norm {name!r}: its output for an image depends on the others of the batch; a layer of one's own must "
                f"treat every image by itself. Batch norms are 'bn' and 'syncbn'."
            )
