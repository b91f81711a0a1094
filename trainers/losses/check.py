"""Check a loss of one's own when its method is registered: on a few random images, and on the halves of them."""

from typing import Any

import torch
from torch import Tensor, nn

from eman.platform.errors import UserError, first_line
from eman.trainers.losses.criterion import Criterion
from eman.trainers.methods.method import Method, Passes

_IMAGES, _FEATURES, _CLASSES, _DEVICES = 8, 64, 10, 2


def check_parts(method: Method[Any]) -> None:
    """Compute heads and loss on random features.

    Raises:
        UserError: They fail; the loss is no scalar with a gradient, or another measure no scalar; or they are not means
            over images, so that a run on several workers, or in parts, would be another run.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            criterion, outputs_S, outputs_T, labels = _made(method)
            whole = _values(criterion, outputs_S, outputs_T, labels)
            halves = [
                _values(criterion, _half(outputs_S, n), _half(outputs_T, n), {k: y[n::2] for k, y in labels.items()})
                for n in (0, 1)
            ]
            with torch.no_grad():
                criterion.after_step(outputs_T)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"method {method.name!r}: its heads and loss fail on {_IMAGES} images of each stream "
                f"({type(error).__name__}: {first_line(error)})."
            ) from error
    for name, value in whole.items():
        mean = (halves[0][name] + halves[1][name]) / 2
        if not torch.isclose(value, mean, rtol=1e-3, atol=1e-5, equal_nan=True):
            raise UserError(
                f"method {method.name!r}: its criterion's {name} is {value:.4g} on {_IMAGES} images, and the mean over "
                f"their halves is {mean:.4g}; return means over images, so that workers and parts change nothing."
            )


def _made(method: Method[Any]) -> tuple[Criterion[Any], list[Tensor], list[Tensor], dict[str, Tensor]]:
    """Return the loss, outputs of both networks on random features, and labels by stream."""
    section, parts = method.section(), method.parts()
    student = nn.Sequential()
    student.add_module("backbone", nn.Linear(_FEATURES, _FEATURES))
    for name, head in parts.heads(section, _FEATURES, _CLASSES).items():
        student.add_module(name, head)
    followed = parts.followed(student)
    outputs_S = [student(x) for x in _features(method.student_passes(section))]
    with torch.no_grad():
        outputs_T = [followed(x) for x in _features(method.teacher_passes(section))]
    labels = {stream: torch.arange(_IMAGES) % _CLASSES for stream in method.streams}
    criterion = parts.criterion(section, _DEVICES, torch.Generator().manual_seed(0))
    return criterion, outputs_S, outputs_T, labels


def _features(passes: Passes) -> list[Tensor]:
    return [torch.randn(_IMAGES * len(views), _FEATURES) for views in passes]


def _half(outputs: list[Tensor], first: int) -> list[Tensor]:
    return [output[first::2] for output in outputs]


def _values(
    criterion: Criterion[Any], student: list[Tensor], teacher: list[Tensor], labels: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return loss and measures by name; raise :class:`UserError` unless they are scalars, the loss with a gradient."""
    loss, measures = criterion(student, teacher, labels)
    if not isinstance(loss, Tensor) or loss.dim() or not loss.requires_grad:
        raise UserError(
            f"{type(criterion).__name__}.forward returns the loss {loss!r:.80}; it must be a scalar tensor with a "
            f"gradient, a mean over images."
        )
    for name, value in measures.items():
        if not isinstance(value, Tensor) or value.dim() or value.requires_grad or name == "loss":
            raise UserError(
                f"{type(criterion).__name__}.forward returns the measure {name!r} = {value!r:.80}; it must be a scalar "
                f"tensor without gradient (.detach()), a mean over images, and not be called 'loss'."
            )
    return {"loss": loss.detach(), **measures}
