"""Checkpoints: whole or not at all; what is foreign, damaged, or has no room."""

import resource
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from eman.platform import checkpoint

CONTENT = {"weights": torch.arange(5000.0), "step": 3, "nested": [{"a": torch.ones(2, 2)}]}


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "new" / "x.pt", CONTENT, "k")
    torch.testing.assert_close(checkpoint.load(tmp_path / "new" / "x.pt", "k"), CONTENT, rtol=0, atol=0)


def test_a_checkpoint_without_the_fields_that_are_needed_is_refused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "x.pt", CONTENT, "k")
    with pytest.raises(checkpoint.UnusableError, match="lacks spec, student"):
        checkpoint.load(tmp_path / "x.pt", "k", fields=("student", "spec", "step"))


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def altered(path: Path) -> None:
    weight = struct.pack("<f", 4321.0)
    path.write_bytes(path.read_bytes().replace(weight, struct.pack("<f", 4320.5)))


def of_another_run(path: Path) -> None:
    checkpoint.save(path, CONTENT, "other")


def of_another_program(path: Path) -> None:
    torch.save({"state_dict": {}}, path)


def a_tensor(path: Path) -> None:
    torch.save(torch.ones(3), path)


DAMAGES = {
    truncated: "is damaged",
    altered: "is damaged",
    of_another_run: "belongs to run other",
    of_another_program: "is not a checkpoint of eman",
    a_tensor: "is not a checkpoint of eman",
}


@pytest.mark.parametrize(("damage", "error"), DAMAGES.items())
def test_a_checkpoint_that_cannot_be_used_is_refused_in_one_line(
    damage: Callable[[Path], None], error: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.pt"
    checkpoint.save(path, CONTENT, "k")
    damage(path)
    with pytest.raises(checkpoint.UnusableError, match=error) as caught:
        checkpoint.load(path, "k")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_checkpoint_that_cannot_be_used_is_set_aside(
    damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "resume.pt"
    for step in (1, 2):
        checkpoint.save_newest(path, CONTENT | {"step": step}, "k")
    damage(path)
    found = checkpoint.load_newest(path, "k")
    assert found is not None
    assert found["step"] == 1
    assert "Set aside as resume.pt.set-aside" in caplog.text
    assert not path.exists()
    damage(tmp_path / "resume.pt.before")
    assert checkpoint.load_newest(path, "k") is None
    checkpoint.save_newest(path, CONTENT, "k")  # and the run goes on


@pytest.mark.parametrize("bytes_left", [0, 100, 6_000, 15_000])
def test_a_full_disk_is_named_and_what_was_there_stays(bytes_left: int, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    checkpoint.save(path, {"step": 1}, "k")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, before[1]))
    try:
        with pytest.raises(checkpoint.DiskFullError, match=r"the disk is full: .* make room"):
            checkpoint.save(path, CONTENT, "k", patience=0.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert checkpoint.load(path, "k") == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]
