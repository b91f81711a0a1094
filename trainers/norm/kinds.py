"""Kinds of norms in a network, and norms that no scheme can replace."""

from torch import nn

from eman.platform.errors import UserError


def kinds_of(module: nn.Module) -> tuple[str, ...]:
    """Return the kinds of norms in a network, sorted: ``batch``, or the scheme that norms of its own are.

    Raises:
        UserError: It has a norm that :func:`check_norm` refuses.
    """
    kinds = set()
    for layer in module.modules():
        check_norm(layer)
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            kinds.add("batch")
        elif isinstance(layer, nn.modules.instancenorm._InstanceNorm):
            kinds.add("in")
        elif isinstance(layer, nn.GroupNorm):
            kinds.add("ln" if layer.num_groups == 1 else "gn")
        elif isinstance(layer, nn.LayerNorm):
            kinds.add("ln")
    return tuple(sorted(kinds))


def check_norm(layer: nn.Module) -> None:
    """Raise :class:`~eman.platform.errors.UserError` for a norm whose statistics no scheme could handle."""
    kind = type(layer).__name__
    if isinstance(layer, nn.modules.batchnorm._NormBase) and layer.num_features == 0:
        raise UserError(f"{kind} does not know its channels yet; run the network once before it is converted.")
    if isinstance(layer, nn.modules.batchnorm._BatchNorm) and not layer.track_running_stats:
        raise UserError(
            f"{kind} keeps no running statistics, with which EMAN and evaluations normalize; build it with "
            f"track_running_stats=True."
        )
    if isinstance(layer, nn.modules.instancenorm._InstanceNorm) and layer.track_running_stats:
        raise UserError(
            f"{kind} keeps running statistics, which no scheme moves; build it with track_running_stats=False."
        )
    if "FrozenBatchNorm" in kind:
        raise UserError(
            f"{kind} normalizes with fixed statistics, which no scheme can replace; build it with BatchNorm."
        )
