"""Implement a :class:`~eman.trainers.norm.schemes.TeacherNorm`: a teacher's layers and passes.

Shapes: N images on this worker.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from eman.platform.errors import UserError
from eman.trainers import distributed
from eman.trainers.norm.convert import convert_norm
from eman.trainers.norm.device_bn import DeviceBatchNorm, device_norms, in_one_pass
from eman.trainers.norm.momentum_bn import MomentumBatchNorm, with_momentum_norms
from eman.trainers.norm.schemes import STUDENT_NORMS, TEACHER_NORMS, Scheme
from eman.trainers.norm.statistics import batch_norms, batch_statistics, share_statistics

#: Default of 1 - alpha, Eq. (4), for a teacher that collects statistics: PyTorch's default.
_PROXY_WEIGHT = 0.1


def teacher_network(student: nn.Module, scheme: Scheme) -> nn.Module:
    """Copy a student, with the norms of the scheme's teacher.

    Raises:
        UserError: The scheme does not fit the student.
    """
    norm = TEACHER_NORMS[scheme.teacher]
    network = copy.deepcopy(student).requires_grad_(False)
    layers = list(batch_norms(network))
    if norm.needs_batch_norms and not layers:
        raise UserError(
            f"scheme {scheme.title!r} uses the statistics of batch norms, and the student has none; build it with "
            f"BatchNorm, or choose a scheme such as bn, gn or ln."
        )
    own = STUDENT_NORMS[norm.norm] if norm.norm is not None else None
    if layers and own is not None and not own.keeps_statistics:
        raise UserError(
            f"scheme {scheme.title!r} needs a student without batch norms; call "
            f"convert_norm(student, {scheme.student!r}) first."
        )
    if norm.shuffle and hosted_devices(network) * distributed.workers() == 1:
        raise UserError(
            "ShuffleBN moves images between the devices of a batch, and there is one device; give "
            "convert_norm(student, 'bn', devices=8), or run several workers."
        )
    if own is not None and own.keeps_statistics:
        network = _set_sync(network, own.sync)
    if norm.blends:
        network = with_momentum_norms(network).requires_grad_(False)
    if norm.collects:
        alpha = scheme.teacher_proxy_momentum
        for layer in layers:
            layer.register_forward_hook(_collector(_PROXY_WEIGHT if alpha is None else 1 - alpha))
    return network


def hosted_devices(network: nn.Module) -> int:
    """Return the number of devices on this worker whose statistics the network's norms keep apart."""
    return max((layer.devices for layer in batch_norms(network) if isinstance(layer, DeviceBatchNorm)), default=1)


def teacher_pass(network: nn.Module, scheme: Scheme, x_N: Tensor, permutation: Callable[[int], Tensor]) -> Tensor:
    """Run a teacher's forward pass.

    Args:
        network: A network made by :func:`teacher_network`.
        scheme: The scheme that it was made for.
        x_N: Images, ``(N, ...)``.
        permutation: From a number of rows to ShuffleBN's permutation, equal on all workers.

    Returns:
        Outputs, ``(N, ...)``.
    """
    norm = TEACHER_NORMS[scheme.teacher]
    if norm.shuffle:
        devices = hosted_devices(network) * distributed.workers()
        order_G = permutation(len(x_N) * distributed.workers())
        shuffled_N = network(distributed.exchange_rows(x_N, order_G, devices))
        return distributed.exchange_rows(shuffled_N, torch.argsort(order_G), devices)
    y_N: Tensor = network(x_N)
    if norm.collects:
        share_statistics(network)
    return y_N


def blended_passes(network: nn.Module, inputs: Sequence[Tensor], weight: Tensor) -> list[Tensor]:
    """Run the passes of a step in one, through a network whose batch norms are :class:`MomentumBatchNorm`.

    Args:
        network: A network made by :func:`teacher_network`.
        inputs: Images, each ``(N, ...)``.
        weight: Weight of the batch in its norms' statistics, a scalar.

    Returns:
        Outputs, each ``(N, ...)``.
    """
    for layer in device_norms(network):
        assert isinstance(layer, MomentumBatchNorm)
        layer.batch_weight = weight
    outputs = in_one_pass(network, inputs)
    share_statistics(network)
    return outputs


def _set_sync(network: nn.Module, sync: bool) -> nn.Module:
    """Make batch norms normalize over all devices (``sync``) or over each device separately."""
    layers = list(batch_norms(network))
    for layer in layers:
        if isinstance(layer, DeviceBatchNorm):
            layer.sync = sync
    if sync and not all(isinstance(layer, DeviceBatchNorm) for layer in layers):
        return convert_norm(network, "syncbn")
    return network


def _collector(weight: float) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    """Return a forward hook that applies Eq. (4) to a layer's own inputs, with 1 - alpha = ``weight``.

    It runs after the layer has normalized, so outputs only depend on statistics of earlier iterations (Section 5.4).
    """

    def collect(layer: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        assert isinstance(layer, nn.modules.batchnorm._BatchNorm)
        assert layer.running_mean is not None and layer.running_var is not None
        mean_C, var_C = batch_statistics(layer, inputs[0])
        layer.running_mean.lerp_(mean_C, weight)
        layer.running_var.lerp_(var_C, weight)

    return collect
