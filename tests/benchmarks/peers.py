"""Beside what people have: `make bench-peers`. Medians, and ratios taken in one run; nothing here passes or fails.

lightly (github.com/lightly-ai/lightly) runs in processes of its own. Sides take turns, so that a machine whose speed
drifts slows all. Same backbone, images, batch and threads; its transforms, heads, loss, memory bank and momentum
update.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench import (
    Found,
    Processes,
    about,
    linear_classifiers,
    machine,
    medians,
    one_step,
    random_features,
    teacher_update,
    teachers,
)
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from eman.evaluation.compute import knn
from eman.platform.errors import UserError, named
from eman.platform.machine import cores
from eman.platform.workspace import Workspace
from eman.sweeps.profiles.mini import MINI
from eman.trainers.data import label_sets
from eman.trainers.spec.run import RunSpec
from eman.trainers.training import Training

ROOT = Path(__file__).resolve().parents[2]


class Peer:
    """A process of lightly's."""

    def __init__(self, side: str, **what: Any) -> None:
        given = json.dumps({"side": side, "threads": torch.get_num_threads(), **what})
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("peers_lightly.py"), given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        if self._line() != "ready":
            raise RuntimeError("lightly's process did not start")

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def seconds(self, steps: int) -> float:
        """What so many steps take there."""
        assert self.process.stdin is not None
        print(steps, file=self.process.stdin, flush=True)
        return float(self._line())

    def end(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.wait()


def rates(sides: dict[str, Callable[[], float]], rounds: int, pause: float = 1.5) -> dict[str, float]:
    """Median of what each side returns, after a warm-up, the sides taking turns."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(rounds + 1):
        for name, call in sides.items():
            value = call()
            if round_:
                found[name].append(value)
            time.sleep(pause)
    return {name: statistics.median(values) for name, values in found.items()}


def pretraining(title: str, spec: RunSpec, theirs_steps: int, steps: int, rounds: int) -> Found:
    """Images a second from the data set to the moved teacher: of one run in one process with all threads, of one run
    with a worker a core, and of runs side by side, one a core. Ours take more steps in a turn, so that all turns take
    about as long: a core that has rested is slow at first.
    """
    ours = Training.fresh(spec, Workspace.from_environment())
    processes = {
        f"{cores()} workers": Processes(spec, together=True),
        "side by side": Processes(spec, together=False),
    }
    peers = {f"lightly, {n} workers": Peer("pretraining", spec=spec.flat(), workers=n) for n in (0, 2)}

    def one() -> float:
        started = time.perf_counter()
        for _ in range(steps):
            ours.train_step()
        return steps * spec.method.images_per_step / (time.perf_counter() - started)

    def several(side: Processes) -> float:
        started = time.perf_counter()
        side.run(steps)
        return side.runs * steps * spec.method.images_per_step / (time.perf_counter() - started)

    def theirs(peer: Peer) -> float:
        return theirs_steps * spec.method.images_per_step / peer.seconds(theirs_steps)

    mine = {"one process": one} | {name: partial(several, side) for name, side in processes.items()}
    speed = rates(mine | {name: partial(theirs, peer) for name, peer in peers.items()}, rounds)
    for side in processes.values():
        side.run(0)
    for peer in peers.values():
        peer.end()
    best = max(speed[name] for name in peers)
    ratios = {f"{name} / lightly": speed[name] / best for name in mine}
    return (
        f"{title:<16} "
        + ", ".join(f"{name} {value:,.0f} images/s" for name, value in speed.items())
        + ": "
        + ", ".join(f"{ratio:.1f}x" for ratio in ratios.values())
        + " the faster of these"
    ), ratios


def mini(method: str) -> Found:
    """The mini net."""
    return pretraining(method, MINI.run(method, "eman"), theirs_steps=12, steps=72, rounds=5)


def resnet18(method: str) -> Found:
    """ResNet-18 with the stem for small images: 8 devices, batch 64."""
    fields = {"backbone": "resnet18-small", "batch": 64, "devices": 8, "statistics_passes": 0}
    return pretraining(
        f"ResNet-18 {method}", MINI.run(method, "eman", overrides=fields), theirs_steps=2, steps=4, rounds=3
    )


def devices() -> Found:
    """A step of MoCo with 64 devices against one."""
    sides = {
        n: Training.fresh(MINI.run("moco", "eman", overrides={"devices": n}), Workspace.from_environment())
        for n in (1, 64)
    }
    found = medians({str(n): partial(one_step, side) for n, side in sides.items()}, 15)
    ratio = found["64"] / found["1"]
    return (
        f"devices          64: {1e3 * found['64']:.0f} ms a step, 1: {1e3 * found['1']:.0f} ms: {ratio:.2f}x the time"
    ), {"64 devices / 1": 1 / ratio}


def synchronized() -> Found:
    """A step of BYOL on two gloo workers, SyncBN in student and teacher against EMAN."""
    steps = 6
    sides = {name: Processes(MINI.run("byol", name), together=True) for name in ("syncbn", "eman")}
    found = medians({name: partial(side.run, steps) for name, side in sides.items()}, 5, warmup=1)
    for side in sides.values():
        side.run(0)
    ratio = found["syncbn"] / found["eman"]
    return (
        f"BYOL, 2 workers  SyncBN {1e3 * found['syncbn'] / steps:.0f} ms a step, EMAN "
        f"{1e3 * found['eman'] / steps:.0f} ms: {ratio:.2f}x faster"
    ), {"EMAN / SyncBN": ratio}


def seconds(call: Callable[[], object]) -> float:
    """What a call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def neighbours() -> Found:
    """kNN of 10,000 images among 60,000 by 64 features, k = 20, plain votes; lightly's are weighted."""
    (bank, labels), (queries, _) = random_features(60_000, 0), random_features(10_000, 1)
    unit = [nn.functional.normalize(x, dim=1).numpy() for x in (bank, queries)]
    scikit = KNeighborsClassifier(20, algorithm="brute", n_jobs=-1).fit(unit[0], labels.numpy())
    peer = Peer("knn", train=60_000, test=10_000, width=64, k=20)
    found = rates(
        {
            "ours": lambda: seconds(lambda: knn.predict(bank, labels, queries)),
            "scikit-learn": lambda: seconds(lambda: scikit.predict(unit[1])),
            "lightly": lambda: peer.seconds(1),
        },
        3,
    )
    peer.end()
    ratios = {f"kNN / {name}": found[name] / found["ours"] for name in ("scikit-learn", "lightly")}
    return (
        f"kNN              60,000 x 10,000 x 64: {found['ours']:.2f} s, scikit-learn {found['scikit-learn']:.2f} s, "
        f"lightly {found['lightly']:.2f} s: " + " and ".join(f"{ratio:.1f}x" for ratio in ratios.values()) + " faster"
    ), ratios


def classifiers() -> Found:
    """Three rates and three label sets of 5,000 features side by side, against as many of scikit-learn's logistic
    regressions one after the other, which stop by themselves.
    """
    x_ND, labels_N = random_features(50_000, 0)
    chosen = [label_sets.label_set(labels_N, 0.1, number) for number in range(3)]
    few = [(x_ND[index].numpy(), labels_N[index].numpy()) for index in chosen]

    def theirs() -> None:
        for x, y in few:
            for strength in (0.1, 1.0, 10.0):
                LogisticRegression(C=strength).fit(x, y)

    found = medians({"ours": linear_classifiers(3, (0.5, 1.0, 2.0)), "theirs": theirs}, 5, warmup=1)
    ratio = found["theirs"] / found["ours"]
    return (
        f"linear           9 classifiers of 5,000 x 64: {found['ours']:.2f} s, scikit-learn's logistic regression "
        f"{found['theirs']:.2f} s: {ratio:.1f}x faster"
    ), {"linear / scikit-learn": ratio}


BENCHMARKS: dict[str, Callable[[], Found]] = {
    "moco": partial(mini, "moco"),
    "byol": partial(mini, "byol"),
    "resnet18-moco": partial(resnet18, "moco"),
    "resnet18-byol": partial(resnet18, "byol"),
    "devices": devices,
    "update": teacher_update,
    "teacher": teachers,
    "syncbn": synchronized,
    "knn": neighbours,
    "linear": classifiers,
}


def main(names: Sequence[str]) -> int:
    """Prints the comparisons of these names, by default all."""
    try:
        chosen = [named("benchmark", name, BENCHMARKS) for name in names] or list(BENCHMARKS.values())
    except UserError as error:
        print(f"peers: {error}", file=sys.stderr)
        return 2
    print(about(machine()))
    for benchmark in chosen:
        print(benchmark()[0], flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
