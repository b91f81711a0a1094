"""What a norm layer has beside its statistics: weights or none, and an activation. Kept when the norm is replaced."""

from typing import TypeVar

from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)

#: Forward passes of batch norms that only normalize, scale and shift.
_PLAIN = {kind.forward for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)}

#: timm's batch norms that end in an activation.
_ACTIVATED = ("BatchNormAct2d", "SyncBatchNormAct")


def has_own_forward(norm: nn.modules.batchnorm._BatchNorm) -> bool:
    """Return whether a subclass of PyTorch's batch norm may compute something else."""
    return type(norm).forward not in _PLAIN and type(norm).__name__ not in _ACTIVATED


def activation_of(norm: nn.Module) -> nn.Module | None:
    """Return the activation that a norm applies to its output; ``None`` if it has none.

    Norms with one are timm's, and those that :func:`append` has given one.
    """
    parts = [getattr(norm, name, None) for name in ("drop", "act")]
    found = [part for part in parts if isinstance(part, nn.Module) and not isinstance(part, nn.Identity)]
    return nn.Sequential(*found) if len(found) > 1 else next(iter(found), None)


def append(norm: nn.Module, activation: nn.Module) -> None:
    """Apply an activation to a norm's output, in place. The norm's own tensors keep their names."""
    norm.act = activation
    norm.register_forward_hook(_activate)


def _activate(norm: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return norm.act(output)  # type: ignore[no-any-return, operator]


def take_over(new: M, old: nn.modules.batchnorm._BatchNorm) -> M:
    """Give a new norm the state and the mode of the one that it replaces, and no weights if that has none.

    Weights that it does not have, 1 and 0, become constants that are no part of its state.
    """
    own = new.state_dict()
    new.load_state_dict({**own, **{name: kept for name, kept in old.state_dict().items() if name in own}})
    if not old.affine:
        for name, parameter in list(new.named_parameters(recurse=False)):
            delattr(new, name)
            new.register_buffer(name, parameter.detach(), persistent=False)
    return new.train(old.training)
