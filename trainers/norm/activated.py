"""Norms with their own activation, whose statistics are those of a single image.

timm has both layers, and a test compares them. timm computes their statistics in float32 even for float64 inputs, and
its EvoNorm-S0 does not normalize without its activation.

Shapes: N samples, C channels, H by W pixels.
"""

import torch
from torch import Tensor, nn

from eman.trainers.norm.sync import at_least_float32


class ActivatedNorm(nn.Module):
    """A norm of maps ``(N, C, H, W)`` that includes its activation.

    Args:
        num_features: C.
        activated: Whether it includes the activation; otherwise it only normalizes, scales and shifts.
        eps: Epsilon under the square root.
    """

    def __init__(self, num_features: int, *, activated: bool, eps: float = 1e-5) -> None:
        super().__init__()
        self.activated, self.eps = activated, eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, activated={self.activated}"

    def _scaled(self, y: Tensor) -> Tensor:
        return y * _per_channel(self.weight, y) + _per_channel(self.bias, y)


class FilterResponseNorm(ActivatedNorm):
    r"""Filter response normalization with a thresholded linear unit (Singh and Krishnan, arXiv 1911.09737).

    .. math:: y = \max\Bigl(\gamma \frac{x}{\sqrt{\mathrm{mean}_{HW}(x^2) + \epsilon}} + \beta, \tau\Bigr)
    """

    def __init__(self, num_features: int, *, activated: bool, eps: float = 1e-5) -> None:
        super().__init__(num_features, activated=activated, eps=eps)
        self.tau = nn.Parameter(torch.zeros(num_features)) if activated else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``(N, C, H, W)``, and activate if ``activated``."""
        squares = at_least_float32(x).square().mean((2, 3), keepdim=True)
        y = self._scaled(x * torch.rsqrt(squares + self.eps).to(x.dtype))
        return y if self.tau is None else torch.maximum(y, _per_channel(self.tau, y))


class EvoNorm(ActivatedNorm):
    r"""EvoNorm-S0 (Liu et al., arXiv 2004.02967).

    .. math:: y = \gamma \frac{x \, \mathrm{sigmoid}(v x)}{\sqrt{\sigma_g^2 + \epsilon}} + \beta

    with the variance over a group of channels and all pixels. Without activation, the numerator is x.
    """

    def __init__(self, num_features: int, groups: int, *, activated: bool, eps: float = 1e-5) -> None:
        super().__init__(num_features, activated=activated, eps=eps)
        self.groups = groups
        self.v = nn.Parameter(torch.ones(num_features)) if activated else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``(N, C, H, W)``, and activate if ``activated``."""
        grouped = at_least_float32(x).unflatten(1, (self.groups, -1))
        variance = grouped.var((2, 3, 4), correction=0, keepdim=True)
        inverse = torch.rsqrt(variance + self.eps).to(x.dtype).expand(-1, -1, grouped.shape[2], -1, -1).flatten(1, 2)
        return self._scaled((x if self.v is None else x * torch.sigmoid(x * _per_channel(self.v, x))) * inverse)


def _per_channel(values_C: Tensor, like: Tensor) -> Tensor:
    return values_C.to(like.dtype).view(1, -1, 1, 1)
