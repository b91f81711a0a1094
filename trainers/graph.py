"""Replay a training step as one CUDA graph."""

from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import torch

from eman.platform.errors import UserError
from eman.trainers.batches import Samples
from eman.trainers.spec.run import RunSpec

R = TypeVar("R")

#: Steps before the capture, which compile kernels and allocate what lasts, such as momentum buffers.
_WARM_UP = 3


class GraphedStep(Generic[R]):
    """A step that launches its first few calls operation by operation, and later ones as one graph.

    A graph repeats the same kernels on the same memory, so the step must not depend on values that the host computes:
    learning rate and momentum are tensors, which the host fills before a call. All state must stay where it is.

    Args:
        step: From a worker's samples to tensors, a function without a wait for the GPU.
    """

    def __init__(self, step: Callable[[Mapping[str, Samples]], R]) -> None:
        self._step, self._calls = step, 0
        self._graph = torch.cuda.CUDAGraph()
        self._side = torch.cuda.Stream()  # one for all warm-up steps: each stream has memory of its own
        self._samples: Mapping[str, Samples] = {}
        self._result: R | None = None

    def __call__(self, samples: Mapping[str, Samples]) -> R:
        """Take the step. From the second call on, the next call overwrites the result."""
        self._calls += 1
        if self._calls <= _WARM_UP:
            return self._warm_up(samples)
        if self._result is None:
            self._samples = samples
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._result = self._step(samples)
        else:
            for name, new in samples.items():
                old = self._samples[name]
                old.place_2N.copy_(new.place_2N)
                if old.images_PNAHW is not None and new.images_PNAHW is not None:
                    old.images_PNAHW.copy_(new.images_PNAHW)
        self._graph.replay()
        return self._result

    def _warm_up(self, samples: Mapping[str, Samples]) -> R:
        self._side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._side):
            result = self._step(samples)
        torch.cuda.current_stream().wait_stream(self._side)
        return result


#: Largest images, in pixels of a side, for which a run uses a graph unless told otherwise. Larger ones keep a GPU busy
#: without, and PyTorch reserves more memory for a graph.
_SMALL = 64


def uses_graph(spec: RunSpec, device: torch.device, workers: int, side: int) -> bool:
    """Return whether a run replays its steps as a graph.

    Args:
        spec: The run.
        device: Its device.
        workers: Number of workers.
        side: Pixels of an image's longer side.

    Raises:
        UserError: ``cuda_graph`` is true, and the run cannot use a graph.
    """
    obstacles = {
        "there is no GPU": device.type != "cuda",
        f"the run has {workers} workers": workers > 1,
        "fp16 reads its loss scale at every step": spec.network.precision == "fp16",
        "compile is true": spec.execution.compile,
    }
    obstacle = next((reason for reason, holds in obstacles.items() if holds), None)
    if spec.execution.cuda_graph and obstacle is not None:
        raise UserError(f"cuda_graph is true, and {obstacle}; leave cuda_graph out, which uses a graph where it can.")
    if spec.execution.cuda_graph is None:
        return obstacle is None and side <= _SMALL
    return spec.execution.cuda_graph
