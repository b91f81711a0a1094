"""The recipes of published numbers: their values, and a few steps of each on generated images of the right shape."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from eman.platform.workspace import Settings, Workspace
from eman.sweeps.profiles.cifar10 import CIFAR10
from eman.sweeps.profiles.imagenette import IMAGENETTE
from eman.sweeps.profiles.profile import Profile
from eman.sweeps.work import steps
from eman.trainers.spec.run import RunSpec
from eman.trainers.training import Training

SMALL: dict[str, dict[str, Any]] = {
    "fixmatch": {"labelled_batch": 4, "batch": 4, "label_count": 20},
    "moco": {"batch": 4, "queue": 16, "symmetric": True},
    "byol": {"batch": 4},
}


def take_two_steps(spec: RunSpec, workspace: Workspace) -> Training:
    training = Training.fresh(spec, workspace)
    for _ in range(2):
        loss, measures, output = training.train_step()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(value) for value in measures.values())
        assert torch.isfinite(output).all()
    training.close()
    return training


def small(profile: Profile, method: str, **fields: Any) -> RunSpec:
    return profile.run(method, "default", 0, {"devices": 2, **SMALL[method], **fields})


@pytest.mark.parametrize("method", SMALL)
def test_cifar10_takes_steps_on_images_of_32_pixels(method: str) -> None:
    spec = small(CIFAR10, method, dataset="synthetic", image_size=32, images=100)
    training = take_two_steps(spec, Workspace.from_environment())
    assert training.teacher_network is not None
    assert training.batches.train.shape == (3, 32, 32)


@pytest.mark.parametrize("method", SMALL)
def test_imagenette_takes_steps_on_jpeg_files(method: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 1)):
        for label in range(10):
            folder = tmp_path / "imagenette2-160" / split / f"n{label:08}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (160, 213, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.JPEG")
    fields = {"label_count": None, "label_fraction": 0.5} if method == "fixmatch" else {}
    workspace = Workspace(tmp_path / "home", str(tmp_path), settings=Settings(loader_processes=0))
    training = take_two_steps(small(IMAGENETTE, method, **fields), workspace)
    assert training.batches.train.shape == (3, 128, 128)


def test_fixmatch_has_usbs_values() -> None:
    spec = CIFAR10.run("fixmatch", "default")
    assert abs(steps(spec) - 2**20) < 111  # whole epochs
    values = spec.flat()
    assert {
        name: values[name] for name in ("backbone", "labelled_batch", "batch", "threshold", "unlabelled_weight")
    } == {
        "backbone": "wrn-28-2",
        "labelled_batch": 64,
        "batch": 7 * 64,
        "threshold": 0.95,
        "unlabelled_weight": 1.0,
    }
    names = ("lr", "sgd_momentum", "weight_decay", "momentum", "student_proxy_momentum", "cosine_arc")
    assert [values[name] for name in names] == [0.03, 0.9, 5e-4, 0.999, 1 - 0.001, 7 / 16]
    assert all(values[name] for name in ("nesterov", "decay_exempts_vectors", "average_student", "reuse_labelled"))
    assert [values[name] * 32 for name in ("crop_padding", "cutout")] == [4, 16]
    assert round(values["label_fraction"] * 50_000) == 4_000
    # Rows of Table 8 that name the momentum of the student's statistics keep theirs.
    rows = {"eman": 0.999, "student-pn-0.9": 0.9, "student-pn-0.999": 0.999}
    assert {row: CIFAR10.run("fixmatch", row).norm.student_proxy_momentum for row in rows} == rows


def test_lightlys_losses_are_half_and_a_quarter_of_ours() -> None:
    """The same steps then have inversely scaled learning rates and weight decays."""
    rates = {method: IMAGENETTE.run(method, "default").optim for method in ("moco", "byol")}
    for method, factor in (("moco", 2), ("byol", 4)):
        assert rates[method].lr == pytest.approx(0.06 / factor)
        assert rates[method].weight_decay == pytest.approx(5e-4 * factor)
