"""MoCo-EMAN's training step as the usual PyTorch implementation takes it: the other side of part `fast`'s ratio.

Written anew from the papers of MoCo and EMAN. It has that implementation's operations: float32 in contiguous memory,
torchvision's ResNet-50 with stock batch norm and an MLP head, one DDP process, a loop over tensors for the teacher,
`torch.optim.SGD`, logits of the positive key beside those of the queue, a queue pointer read by the host, and loss and
accuracy read at every step. Images are on the device already; making the views is left out.

Shapes: N images, C dimensions of a key, K keys in the queue.
"""

import copy
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from gpu_parts.timing import on_gpu


@dataclass(frozen=True)
class Sizes:
    """Sizes of the step; those of the official recipe on one GPU."""

    batch: int = 256
    pixels: int = 224
    backbone: str = "resnet50"
    queue: int = 65_536
    dimensions: int = 128
    momentum: float = 0.999
    temperature: float = 0.2


@contextmanager
def process_group() -> Iterator[bool]:
    """Start a process group of one; yield whether it could be started."""
    backends = [name for name, ok in (("nccl", on_gpu() and dist.is_nccl_available()), ("gloo", True)) if ok]
    started = False
    with tempfile.TemporaryDirectory() as folder:
        for backend in backends:
            try:
                dist.init_process_group(backend, init_method=f"file://{folder}/{backend}", rank=0, world_size=1)
                dist.all_reduce(torch.ones(1, device="cuda" if on_gpu() else "cpu"))
            except RuntimeError:
                if dist.is_initialized():
                    dist.destroy_process_group()
                continue
            started = True
            break
        try:
            yield started
        finally:
            if started:
                dist.destroy_process_group()


class OfficialStep:
    """The networks, the queue and the optimizer; call it to take a step.

    Args:
        sizes: See :class:`Sizes`.
        ddp: Whether to wrap the student in DDP; needs a process group.
        faster: Use bfloat16 autocast and channels-last memory, which that implementation does not.
    """

    def __init__(self, sizes: Sizes, *, ddp: bool, faster: bool = False) -> None:
        self.sizes, self.faster = sizes, faster
        self.device = torch.device("cuda" if on_gpu() else "cpu")
        layout = torch.channels_last if faster else torch.contiguous_format
        torch.manual_seed(0)
        student = _network(sizes).to(self.device, memory_format=layout)
        self.teacher = copy.deepcopy(student).eval().requires_grad_(False)
        self.student: Any = student.train()
        if ddp:
            ids = [0] if on_gpu() else None
            self.student = nn.parallel.DistributedDataParallel(student, device_ids=ids)
        self.optimizer = torch.optim.SGD(student.parameters(), 0.03, momentum=0.9, weight_decay=1e-4)
        self.queue_CK = F.normalize(torch.randn(sizes.dimensions, sizes.queue, device=self.device), dim=0)
        self.pointer = torch.zeros(1, dtype=torch.int64, device=self.device)
        shape = (sizes.batch, 3, sizes.pixels, sizes.pixels)
        views = [[torch.randn(shape, device=self.device) for _ in range(2)] for _ in range(2)]
        self.views = [[x.contiguous(memory_format=layout) for x in pair] for pair in views]
        self.step = 0
        self.loss = float("nan")

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16) if self.faster else nullcontext()

    @torch.no_grad()
    def _move_teacher(self) -> None:
        m = self.sizes.momentum
        source = self.student.module if hasattr(self.student, "module") else self.student
        for theirs, ours in zip(self.teacher.parameters(), source.parameters(), strict=True):
            theirs.data = theirs.data * m + ours.data * (1.0 - m)
        for theirs, ours in zip(self.teacher.buffers(), source.buffers(), strict=True):
            if theirs.is_floating_point():
                theirs.data = theirs.data * m + ours.data * (1.0 - m)
            else:
                theirs.data = ours.data.clone()

    @torch.no_grad()
    def _enqueue(self, key_NC: Tensor) -> None:
        start = int(self.pointer)
        self.queue_CK[:, start : start + len(key_NC)] = key_NC.T
        self.pointer[0] = (start + len(key_NC)) % self.sizes.queue

    def __call__(self) -> None:
        query_view, key_view = self.views[self.step % 2]
        with self._autocast():
            query_NC = F.normalize(self.student(query_view), dim=1)
        with torch.no_grad(), self._autocast():
            self._move_teacher()
            key_NC = F.normalize(self.teacher(key_view), dim=1)
        with self._autocast():
            positive_N1 = torch.einsum("nc,nc->n", [query_NC, key_NC]).unsqueeze(-1)
            negative_NK = torch.einsum("nc,ck->nk", [query_NC, self.queue_CK.clone().detach()])
            logits = torch.cat([positive_N1, negative_NK], dim=1) / self.sizes.temperature
            target_N = torch.zeros(len(logits), dtype=torch.int64, device=self.device)
            loss = F.cross_entropy(logits, target_N)
        self._enqueue(key_NC.float())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.loss = loss.item()
        float((logits.argmax(1) == 0).float().mean())
        self.step += 1


def _network(sizes: Sizes) -> nn.Module:
    from torchvision import models

    network: nn.Module = models.get_model(sizes.backbone, weights=None, num_classes=sizes.dimensions)
    width = network.fc.in_features
    network.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, sizes.dimensions))
    return network
