"""Weight standardization (Qiao et al., arXiv 1903.10520).

Shapes: O output channels.
"""

import torch
from torch import Tensor, nn

#: Epsilon of :func:`standardized`, as in timm.
EPS = 1e-6

#: Classes of standardized convolutions by the class that they standardize.
_CLASSES: dict[type[nn.Module], type[nn.Module]] = {}

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def standardized(weight: Tensor) -> Tensor:
    r"""Return a convolution's weights with mean 0 and variance 1 for each output channel.

    .. math:: \hat w_o = \frac{w_o - \mu_o}{\sqrt{\sigma_o^2 + \epsilon}}

    Args:
        weight: ``(O, ...)``.
    """
    axes = list(range(1, weight.dim()))
    variance, mean = torch.var_mean(weight, axes, correction=0, keepdim=True)
    return (weight - mean) * torch.rsqrt(variance + EPS)


def standardize_weights(module: nn.Module) -> None:
    """Make every convolution in ``module`` compute with :func:`standardized` weights, in place.

    Parameters keep their names and raw values: optimizers, averages and checkpoints see these, and only ``weight``, as
    the convolution's forward pass reads it, is standardized. Convolutions with one weight per output channel stay.
    """
    for layer in module.modules():
        if isinstance(layer, _CONVOLUTIONS) and not is_standardized(layer) and layer.weight[0].numel() > 1:
            _set_class(layer, _standardized_class(type(layer)))


def is_standardized(layer: nn.Module) -> bool:
    """Return whether a layer computes with standardized weights."""
    return isinstance(getattr(type(layer), "weight", None), property)


@torch.no_grad()
def fold_standardization(module: nn.Module) -> None:
    """Store standardized weights as such, in place, so that plain convolutions compute the same; for export."""
    for layer in module.modules():
        if is_standardized(layer):
            layer._parameters["weight"] = nn.Parameter(standardized(_raw(layer)), requires_grad=False)
            _set_class(layer, type(layer).__mro__[1])


def _standardized_class(kind: type[nn.Module]) -> type[nn.Module]:
    """Return a subclass whose attribute ``weight`` is the standardized one, for any forward pass that reads it."""
    if kind not in _CLASSES:
        weight = property(lambda layer: standardized(_raw(layer)))
        _CLASSES[kind] = type(f"Standardized{kind.__name__}", (kind,), {"weight": weight})
    return _CLASSES[kind]


def _raw(layer: nn.Module) -> Tensor:
    weight = layer._parameters["weight"]
    assert weight is not None
    return weight


def _set_class(layer: nn.Module, kind: type) -> None:
    layer.__class__ = kind
