"""Batch normalization over all workers, on any backend.

Shapes: W workers, C channels.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from eman.trainers import distributed


def at_least_float32(x: Tensor) -> Tensor:
    """Convert half precision to float32, in which statistics are computed."""
    return x if x.dtype == torch.float64 else x.float()


class SyncBatchNormFunction(torch.autograd.Function):
    """Batch normalization over all workers: one all-gather forward, one all-reduce backward."""

    @staticmethod
    def forward(ctx, x, weight_C, bias_C, eps):  # type: ignore[no-untyped-def]
        axes = [0, *range(2, x.dim())]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        x32 = at_least_float32(x)
        count = x.numel() // x.shape[1]
        local_var_C, local_mean_C = torch.var_mean(x32, axes, correction=0)
        parts = [x32.new_empty(2, x.shape[1]) for _ in range(distributed.workers())]
        dist.all_gather(parts, torch.stack([local_mean_C, local_var_C]))
        mean_WC, var_WC = torch.stack(parts).unbind(1)
        mean_C = mean_WC.mean(0)
        var_C = var_WC.mean(0) + (mean_WC - mean_C).square().mean(0)  # workers hold equally many samples
        inverse_C = torch.rsqrt(var_C + eps)
        normalized = (x32 - mean_C.view(shape)) * inverse_C.view(shape)
        ctx.save_for_backward(normalized, weight_C, inverse_C)
        ctx.axes, ctx.shape, ctx.total, ctx.dtype = axes, shape, count * distributed.workers(), x.dtype
        unbiased_C = var_C * (ctx.total / max(ctx.total - 1, 1))
        ctx.mark_non_differentiable(mean_C, unbiased_C)
        y = normalized * weight_C.view(shape) + bias_C.view(shape)
        return y.to(x.dtype), mean_C, unbiased_C

    @staticmethod
    def backward(ctx, grad_y, _mean, _var):  # type: ignore[no-untyped-def]
        normalized, weight_C, inverse_C = ctx.saved_tensors
        grad = at_least_float32(grad_y)
        grad_bias_C = grad.sum(ctx.axes)
        grad_weight_C = (grad * normalized).sum(ctx.axes)
        sums = torch.stack([grad_bias_C, grad_weight_C])
        dist.all_reduce(sums)
        mean_grad_C, mean_product_C = sums / ctx.total
        scale_C = weight_C * inverse_C
        grad_x = (grad - mean_grad_C.view(ctx.shape) - normalized * mean_product_C.view(ctx.shape)) * scale_C.view(
            ctx.shape
        )
        return grad_x.to(ctx.dtype), grad_weight_C, grad_bias_C, None
