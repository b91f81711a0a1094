"""lightly's side of `make bench-peers`: a process that is told by lines on its standard input.

The backbone and the images are ours; transforms, heads, losses, memory bank and momentum update are lightly's, as its
documentation puts them together.
"""

import copy
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from bench import PairsOfImages
from lightly.loss import NegativeCosineSimilarity, NTXentLoss
from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead, MoCoProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms import BYOLTransform, BYOLView1Transform, BYOLView2Transform, MoCoV2Transform
from lightly.utils.benchmarking import knn_predict
from torch import nn
from torch.utils.data import DataLoader

from eman.platform.workspace import Workspace
from eman.trainers.backbones.registry import backbone_named
from eman.trainers.data import catalog as data

GREY = {"mean": [0.286], "std": [0.353]}


class Pretraining:
    """A method's training, step by step."""

    def __init__(self, spec: dict[str, Any], workers: int) -> None:
        backbone, size = backbone_named(spec["backbone"]), 28
        hidden, out = spec["hidden_dim"] or backbone.features, spec["projection_dim"]
        self.byol = spec["method"] == "byol"
        if self.byol:
            first, second = (view(input_size=size, normalize=GREY) for view in (BYOLView1Transform, BYOLView2Transform))
            views = BYOLTransform(first, second).transforms
            self.predictor = BYOLPredictionHead(out, hidden, out)
        else:
            views = MoCoV2Transform(input_size=size, normalize=GREY).transforms
            self.predictor = nn.Identity()
        head = BYOLProjectionHead if self.byol else MoCoProjectionHead
        self.student = nn.Sequential(backbone.build(1), head(backbone.features, hidden, out))
        self.teacher = copy.deepcopy(self.student)
        deactivate_requires_grad(self.teacher)
        memory = (spec["queue"], out) if not self.byol else 0
        self.loss = NegativeCosineSimilarity() if self.byol else NTXentLoss(memory_bank_size=memory)
        parameters = [*self.student.parameters(), *self.predictor.parameters()]
        self.optimizer = torch.optim.SGD(parameters, lr=0.06, momentum=0.9, weight_decay=1e-4)
        self.loader = DataLoader(
            PairsOfImages(data.load(spec["dataset"], Workspace.from_environment()).train, *views),
            spec["batch"],
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        self.batches = self._endless()

    def _endless(self) -> Iterator[Any]:
        while True:
            yield from self.loader

    def drain(self) -> None:
        """Takes what the loader's workers have prepared while others were measured, so that it does not count."""
        for _ in itertools.islice(self.batches, 4 if self.loader.num_workers else 0):
            pass

    def run(self, steps: int) -> None:
        """Trains."""
        for a, b in itertools.islice(self.batches, steps):
            update_momentum(self.student, self.teacher, m=0.99)
            if self.byol:
                with torch.no_grad():
                    target_a, target_b = self.teacher(a), self.teacher(b)
                predicted_a, predicted_b = (self.predictor(self.student(x)) for x in (a, b))
                loss = 0.5 * (self.loss(predicted_a, target_b) + self.loss(predicted_b, target_a))
            else:
                query = self.student(a)
                with torch.no_grad():
                    key = self.teacher(b)
                loss = self.loss(query, key)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()


class Neighbours:
    """lightly's kNN over random features, in batches, as its documentation calls it."""

    def __init__(self, train: int, test: int, width: int, k: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.bank = nn.functional.normalize(torch.randn(train, width, generator=generator), dim=1).T.contiguous()
        self.labels = torch.randint(0, 10, (train,), generator=generator)
        self.queries = nn.functional.normalize(torch.randn(test, width, generator=generator), dim=1)
        self.k = k

    def drain(self) -> None:
        """Nothing is prepared."""

    def run(self, rounds: int) -> None:
        """Classifies all queries."""
        for _ in range(rounds):
            for batch in self.queries.split(256):
                knn_predict(batch, self.bank, self.labels, 10, knn_k=self.k, knn_t=0.1)


def main() -> None:
    """Answers each line, a number of steps, by the seconds that they took."""
    what = json.loads(sys.argv[1])
    torch.set_num_threads(what.pop("threads"))
    sides: dict[str, Callable[..., Any]] = {"pretraining": Pretraining, "knn": Neighbours}
    side = sides[what.pop("side")](**what)
    print("ready", flush=True)
    for line in sys.stdin:
        side.drain()
        started = time.perf_counter()
        side.run(int(line))
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main()
