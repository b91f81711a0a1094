"""Workers: this process's place among them, and how rows travel between them.

Words. A *device* is one accelerator of the recipe; it decides which samples share batch statistics. A *worker* is a
process; it hosts ``V = devices / workers`` devices. Position ``p`` of a global batch belongs to device ``p mod D``, so
worker ``w`` holds the positions ``i*D + w*V + v`` for every ``i`` and every ``v < V``, in that order. With one worker
this is the batch itself. Every function works without a process group, too, as with one worker.

Who owns a buffer. DDP reduces gradients and nothing else (``forward_sync_buffers=False``): its broadcast of buffers
would carry MoCo's queue and overwrite what teachers collect.

===========================================  ==========================================================================
running statistics of the student            device 0 on worker 0, or the mean over devices; ``norm.share_statistics``
                                             before the teacher moves; alike on all workers under SyncBN
the same of a teacher under EMAN             ``Teacher.update``, alike on all workers, from equal tensors
the same under a student's proxy norm        copied from the student by ``Teacher.update``
the same under a teacher's proxy norm        the teacher's own passes (Eq. 4), ``share_statistics`` after each
the same of a teacher with its own batches   each worker's own; no part of training; shared before they are saved
other buffers of a teacher                   ``Teacher.update``: averaged (Algorithm 1), integers copied
``Teacher.passes``                           counts ShuffleBN's permutations, alike on all workers
MoCo's queue                                 the criterion, outside DDP; every worker enters all workers' keys in order,
                                             once a step, after the backward pass
===========================================  ==========================================================================

Shapes: N rows on this worker, W workers, G = N*W rows in all.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def workers() -> int:
    """Return the number of workers, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this worker's number, counted from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def device() -> torch.device:
    """Return this worker's GPU, or the CPU if there is none."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def agreed(answer: bool) -> bool:
    """Return worker 0's answer on every worker. All of them must call it."""
    if workers() == 1:
        return answer
    answer_1 = torch.tensor([float(answer)], device=device())
    dist.broadcast(answer_1, 0)
    return bool(answer_1)


def positions(rows: int, devices: int, worker: int | None = None) -> Tensor:
    """Return the global positions of a worker's rows.

    Args:
        rows: Rows in the global batch, a multiple of ``devices``.
        devices: Devices in all, a multiple of the number of workers.
        worker: Whose rows; this process's by default.

    Returns:
        int64 tensor of shape ``(rows / workers,)``, ascending.
    """
    worker = rank() if worker is None else worker
    return torch.arange(rows).view(rows // devices, workers(), devices // workers())[:, worker].reshape(-1)


def split_devices(x_N: Tensor, parts: int, devices: int) -> list[Tensor]:
    """Split this worker's rows into parts, each with all rows of some of its devices.

    Args:
        x_N: Rows, row ``j`` of device ``j mod devices``.
        parts: P, a divisor of ``devices``.
        devices: Devices that this worker hosts.

    Returns:
        P tensors of shape ``(N / P, ...)``; in each, row ``j`` is of its device ``j mod (devices / P)``.
    """
    if parts == 1:
        return [x_N]
    return [part.flatten(0, 1) for part in x_N.unflatten(0, (-1, parts, devices // parts)).unbind(1)]


def join_devices(parts: list[Tensor], devices: int) -> Tensor:
    """Undo :func:`split_devices`."""
    if len(parts) == 1:
        return parts[0]
    return torch.stack([part.unflatten(0, (-1, devices // len(parts))) for part in parts], 1).flatten(0, 2)


def gather_rows(x_N: Tensor, devices: int) -> Tensor:
    """Return all workers' rows in global order, shape ``(G, ...)``, without gradient."""
    if workers() == 1:
        return x_N.detach()
    parts = [torch.empty_like(x_N) for _ in range(workers())]
    dist.all_gather(parts, x_N.detach().contiguous())
    local = devices // workers()
    stacked = torch.stack([part.view(-1, local, *x_N.shape[1:]) for part in parts], dim=1)
    return stacked.reshape(-1, *x_N.shape[1:])


def exchange_rows(x_N: Tensor, source_G: Tensor, devices: int) -> Tensor:
    """Permute the rows of the global batch: position ``p`` of the result holds what was at ``source_G[p]``.

    Only the rows that change workers travel, each of them once (``all_to_all``).

    Args:
        x_N: This worker's rows, shape ``(N, ...)``.
        source_G: A permutation of the G global positions, equal on all workers.
        devices: Devices in all.

    Returns:
        This worker's rows of the permuted batch, shape ``(N, ...)``, without gradient.
    """
    if workers() == 1:
        return x_N.detach()[source_G.to(x_N.device)]
    total, me = len(source_G), rank()
    owned = [positions(total, devices, worker) for worker in range(workers())]
    owner_G, row_G = torch.empty(total, dtype=torch.int64), torch.empty(total, dtype=torch.int64)
    for worker, places in enumerate(owned):
        owner_G[places], row_G[places] = worker, torch.arange(len(places))
    wanted = [source_G[places] for places in owned]  # global positions that each worker wants
    send = [row_G[want[owner_G[want] == me]] for want in wanted]
    received_from = owner_G[wanted[me]]
    out = torch.empty_like(x_N)
    dist.all_to_all_single(
        out,
        x_N.detach()[torch.cat(send).to(x_N.device)].contiguous(),
        output_split_sizes=torch.bincount(received_from, minlength=workers()).tolist(),
        input_split_sizes=[len(rows) for rows in send],
    )
    # Rows arrive sorted by sender, within a sender in the order in which this worker wants them.
    return out[torch.argsort(torch.argsort(received_from, stable=True)).to(x_N.device)]


def mean_over_workers(values: Tensor) -> Tensor:
    """Return the mean of a small tensor over workers, computed in place."""
    if workers() > 1:
        dist.all_reduce(values)
        values /= workers()
    return values
