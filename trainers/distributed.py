"""Communication between workers.

A *device* is one of the recipe's D accelerators; samples of one device share batch statistics. A *worker* is a process,
which hosts ``V = D / workers`` devices. Position ``p`` of a global batch belongs to device ``p mod D``, so worker ``w``
holds the positions ``i*D + w*V + v`` for every ``i`` and every ``v < V``, in that order. With one worker this is the
batch itself. Without a process group every function behaves as with one worker.

DDP only reduces gradients (``forward_sync_buffers=False``). Its broadcast of buffers would carry MoCo's queue and
overwrite the statistics that teachers collect. Buffers are kept equal as follows.

===========================================  ==========================================================================
student: running statistics                  device 0's or the mean over devices; ``share_statistics`` sends them before
                                             the teacher is updated; under SyncBN they are equal on all workers
EMAN teacher: running statistics             ``Teacher.update``, from equal tensors on all workers; bias-corrected, also
                                             ``Teacher.student_share``, equal on all workers
student-PN teacher: running statistics       copied from the student by ``Teacher.update``
teacher-PN teacher: running statistics       the teacher's own passes, Eq. (4), then ``share_statistics``
Momentum^2 teacher: running statistics       the same, with the weight of Momentum^2
frozen teacher: running statistics           never changed
other teachers: running statistics           differ between workers; unused in training; shared before they are saved
teachers: other buffers                      ``Teacher.update``: averaged (Algorithm 1), integers copied
``Teacher.passes``                           counts ShuffleBN's permutations and Momentum^2's steps; equal on all
                                             workers
MoCo's queue                                 the criterion, outside DDP: after the backward pass, every worker enqueues
                                             the keys of all workers in the same order
===========================================  ==========================================================================

Shapes: N rows on this worker, W workers, G = N*W rows of the global batch.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from eman.platform.errors import UserError


def workers() -> int:
    """Return the number of workers; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this worker's rank, counted from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def devices_here(devices: int, parts: int) -> int:
    """Return the number of devices that this worker hosts.

    Args:
        devices: Devices of the run.
        parts: Parts into which a worker splits its batch, by devices.

    Raises:
        UserError: The workers do not divide the devices, or the parts do not divide a worker's devices.
    """
    count = workers()
    if devices % count:
        raise UserError(f"{count} workers do not divide {devices} devices; give a divisor of {devices}.")
    local = devices // count
    if local % parts:
        raise UserError(
            f"accumulate is {parts}, and each of {count} workers hosts {local} devices, none of which can be split; "
            f"give a divisor of {local}, or use fewer workers."
        )
    return local


def device() -> torch.device:
    """Return this worker's GPU, or the CPU if there is none."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def agreed(answer: bool) -> bool:
    """Broadcast worker 0's ``answer``. Every worker must call this."""
    if workers() == 1:
        return answer
    answer_1 = torch.tensor([float(answer)], device=device())
    dist.broadcast(answer_1, 0)
    return bool(answer_1)


def positions(rows: int, devices: int, worker: int | None = None) -> Tensor:
    """Return the global positions of a worker's rows.

    Args:
        rows: Rows in the global batch, a multiple of ``devices``.
        devices: D, a multiple of the number of workers.
        worker: Rank of the worker; ``None`` for this process.

    Returns:
        int64 tensor of shape ``(rows / workers,)``, ascending.
    """
    worker = rank() if worker is None else worker
    return torch.arange(rows).view(rows // devices, workers(), devices // workers())[:, worker].reshape(-1)


def split_devices(x_N: Tensor, parts: int, devices: int) -> list[Tensor]:
    """Split this worker's rows into parts of whole devices.

    Args:
        x_N: Rows, ``(N, ...)``; row ``j`` belongs to device ``j mod V``.
        parts: P, a divisor of V.
        devices: V, the devices that this worker hosts.

    Returns:
        P tensors of shape ``(N / P, ...)``; in each, row ``j`` belongs to the part's device ``j mod (V / P)``.
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
    """Return the rows of all workers in global order, ``(G, ...)``, without gradient."""
    if workers() == 1:
        return x_N.detach()
    parts = [torch.empty_like(x_N) for _ in range(workers())]
    dist.all_gather(parts, x_N.detach().contiguous())
    local = devices // workers()
    stacked = torch.stack([part.view(-1, local, *x_N.shape[1:]) for part in parts], dim=1)
    return stacked.reshape(-1, *x_N.shape[1:])


def exchange_rows(x_N: Tensor, source_G: Tensor, devices: int) -> Tensor:
    """Permute the global batch: position ``p`` of the result is the row at position ``source_G[p]``.

    Each row is sent once, to the worker that needs it (``all_to_all``).

    Args:
        x_N: This worker's rows, shape ``(N, ...)``.
        source_G: int64, a permutation of the G global positions, equal on all workers.
        devices: D.

    Returns:
        This worker's rows of the permuted batch, shape ``(N, ...)``, without gradient.
    """
    if workers() == 1:
        return x_N.detach()[source_G.to(x_N.device)]
    source_G = source_G.cpu()  # this waits for a GPU, once per ShuffleBN pass of several workers
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
    # Rows arrive sorted by sender, and from each sender in the order of this worker's positions.
    return out[torch.argsort(torch.argsort(received_from, stable=True)).to(x_N.device)]


def mean_over_workers(values: Tensor) -> Tensor:
    """Average a tensor over workers in place, and return it."""
    if workers() > 1:
        dist.all_reduce(values)
        values /= workers()
    return values
