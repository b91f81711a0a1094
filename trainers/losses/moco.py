"""MoCo's loss and head; see :mod:`eman.trainers.methods.moco` for the equation.

Shapes: N images on this worker, G keys of all workers, C projection dimension, K length of the queue.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from eman.trainers import distributed
from eman.trainers.losses.criterion import Criterion, Parts
from eman.trainers.methods.moco import MoCoSpec


class MoCo(Criterion[MoCoSpec]):
    """InfoNCE with one positive and the queue as negatives.

    The queue takes the keys of all workers in device order, pass by pass.
    """

    queue_KC: Tensor
    pointer: Tensor

    def __init__(self, spec: MoCoSpec, devices: int, generator: torch.Generator) -> None:
        super().__init__(spec, devices, generator)
        self.devices = devices
        queue_KC = torch.randn(spec.queue, spec.projection_dim, generator=generator)
        self.register_buffer("queue_KC", F.normalize(queue_KC, dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    def forward(
        self,
        student: list[Tensor],
        teacher: list[Tensor],
        labels: dict[str, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of queries against keys, ``(N, C)`` each: the sum over the passes, one or two.

        ``contrast_accuracy`` is the share of queries that are more similar to their key than to all of the queue.
        """
        losses, accuracies = [], []
        for queries_NC, keys_NC in zip(student, teacher, strict=True):
            query_NC, key_NC = F.normalize(queries_NC, dim=1), F.normalize(keys_NC, dim=1)
            loss_N, right_N = _InfoNCE.apply(query_NC / self.spec.temperature, key_NC, self.queue_KC)
            losses.append(loss_N.mean())
            accuracies.append(right_N.float().mean())
        return torch.stack(losses).sum(), {"contrast_accuracy": torch.stack(accuracies).mean()}

    @torch.no_grad()
    def after_step(self, teacher: list[Tensor]) -> None:
        """Replace the oldest keys of the queue with the keys of all workers, ``(N, C)`` for each pass."""
        key_GC = torch.cat([distributed.gather_rows(F.normalize(key_NC, dim=1), self.devices) for key_NC in teacher])
        length = len(self.queue_KC)
        row_G = (self.pointer + torch.arange(len(key_GC), device=key_GC.device)) % length
        self.queue_KC.index_copy_(0, row_G, key_GC)
        self.pointer.add_(len(key_GC)).remainder_(length)


class _InfoNCE(torch.autograd.Function):
    """The loss of each image, ``(N,)``, and whether its key is its most similar one, ``(N,)``.

    The forward pass computes the N x K exponentials in place and already derives the gradient of the scaled query from
    them: the expected key under the softmax, minus the positive key.
    """

    @staticmethod
    def forward(ctx, scaled_NC, key_NC, queue_KC):  # type: ignore[no-untyped-def]
        positive_N = (scaled_NC * key_NC).sum(1)
        weight_NK = scaled_NC @ queue_KC.T
        best_N = weight_NK.amax(1)
        right_N = positive_N > best_N
        top_N = torch.maximum(positive_N, best_N)
        weight_NK.sub_(top_N.unsqueeze(1)).exp_()
        weight_N = torch.exp(positive_N - top_N)
        total_N = weight_N + weight_NK.sum(1)
        expected_NC = (weight_NK @ queue_KC + weight_N.unsqueeze(1) * key_NC) / total_N.unsqueeze(1)
        ctx.save_for_backward(expected_NC - key_NC)
        ctx.mark_non_differentiable(right_N)
        return torch.log(total_N) + top_N - positive_N, right_N

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_N, _right):  # type: ignore[no-untyped-def]
        (gradient_NC,) = ctx.saved_tensors
        return grad_N.unsqueeze(1) * gradient_NC, None, None


def projector(spec: MoCoSpec, features: int, _classes: int) -> dict[str, nn.Module]:
    """Build MoCo v2's projector, two linear layers without normalization, or a single linear layer."""
    if spec.linear_projector:
        return {"projector": nn.Linear(features, spec.projection_dim)}
    return {
        "projector": nn.Sequential(
            nn.Linear(features, spec.hidden_dim),
            nn.ReLU(inplace=True),
            nn.Linear(spec.hidden_dim, spec.projection_dim),
        )
    }


PARTS = Parts(heads=projector, criterion=MoCo)
