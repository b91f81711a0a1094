"""Find, compute, share and average the running statistics of batch norms.

Shapes: N samples on this worker, V devices on this worker, C channels.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from eman.trainers import distributed
from eman.trainers.norm.device_bn import DeviceBatchNorm
from eman.trainers.norm.sync import at_least_float32


def batch_norms(module: nn.Module) -> Iterator[nn.modules.batchnorm._BatchNorm]:
    """Yield every batch norm in ``module`` with running statistics: :class:`DeviceBatchNorm` and PyTorch's."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and child.running_mean is not None:
            yield child


def batch_statistics(layer: nn.modules.batchnorm._BatchNorm, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and unbiased variance, ``(C,)``, with which training mode would update running statistics.

    Args:
        layer: A batch norm.
        x: Its input, ``(N, C, ...)``.
    """
    x = at_least_float32(x.detach())
    axes = [0, *range(2, x.dim())]
    devices, sync, source = (
        (layer.devices, layer.sync, layer.device_statistics)
        if isinstance(layer, DeviceBatchNorm)
        else (1, False, "device0")
    )
    if sync or devices == 1:
        var_C, mean_C = torch.var_mean(x, axes)
    elif source == "device0":
        var_C, mean_C = torch.var_mean(x[::devices], axes)
    else:
        var_VC, mean_VC = torch.var_mean(x.unflatten(0, (-1, devices)), [0, *range(3, x.dim() + 1)])
        var_C, mean_C = var_VC.mean(0), mean_VC.mean(0)
    return mean_C, var_C


@torch.no_grad()
def share_statistics(module: nn.Module) -> None:
    """Give all workers the same running statistics: device 0's, from worker 0, or the mean over workers.

    The training loop calls this before it updates the teacher. DDP's buffer broadcast would also send MoCo's queue
    (33 MB per step) and overwrite the statistics that a teacher has collected.
    """
    if distributed.workers() == 1:
        return
    layers = [layer for layer in batch_norms(module) if isinstance(layer, DeviceBatchNorm) and not layer.sync]
    buffers = [b for layer in layers for b in (layer.running_mean, layer.running_var) if b is not None]
    if not buffers:
        return
    flat = torch.cat(buffers)
    if layers[0].device_statistics == "mean":
        distributed.mean_over_workers(flat)
    else:
        dist.broadcast(flat, 0)
    for buffer, part in zip(buffers, flat.split([len(b) for b in buffers]), strict=True):
        buffer.copy_(part)


@contextmanager
def plain_averages(module: nn.Module) -> Iterator[None]:
    """Reset running statistics, and set them to the plain averages over the passes inside, equal on all workers."""
    layers = list(batch_norms(module))
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
    yield
    share_statistics(module)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
