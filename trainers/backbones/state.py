"""Load a backbone's weights, and recompute its blocks in the backward pass."""

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from eman.platform.errors import UserError
from eman.trainers.backbones.registry import PREFIX
from eman.trainers.norm.device_bn import repeated_pass


class _Recomputed(nn.Sequential):
    """Blocks that keep only their inputs for the backward pass, and recompute the rest."""

    def forward(self, x_BDHW: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(x_BDHW)  # type: ignore[no-untyped-call, no-any-return]
        for block in self:
            contexts = partial(_contexts, block)
            x_BDHW = checkpoint(block, x_BDHW, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
        return x_BDHW


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of a block's forward pass and of its recomputation."""
    return nullcontext(), repeated_pass(block)


def recompute_blocks(network: nn.Module) -> None:
    """Apply activation checkpointing to every residual block of a backbone, in place."""
    for name, child in network.named_children():
        if isinstance(child, nn.Sequential) and len(child) and hasattr(child[0], "downsample"):
            setattr(network, name, _Recomputed(*child))


def load_backbone(network: nn.Module, state: dict[str, Any], name: str, path: str) -> None:
    """Load a backbone from a whole network's state.

    Args:
        network: The backbone.
        state: State dict of a whole network: backbone and heads.
        name: Name of the backbone, for the error message.
        path: File of the state, for the error message.

    Raises:
        UserError: The state belongs to another backbone.
    """
    try:
        network.load_state_dict({k.removeprefix(PREFIX): v for k, v in state.items() if k.startswith(PREFIX)})
    except RuntimeError as error:
        difference = " ".join(str(error).split())[:160]
        raise UserError(f"checkpoint {path} does not hold a backbone {name!r} as built here: {difference}") from None
