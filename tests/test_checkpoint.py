"""Checkpoints: whole or not at all; what is foreign, damaged, or has no room."""

import resource
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from eman.platform import checkpoint
from eman.platform.storage import DiskFullError, Place

CONTENT = {"weights": torch.arange(5000.0), "step": 3, "nested": [{"a": torch.ones(2, 2)}]}


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    checkpoint.save(at(tmp_path / "new" / "x.pt"), CONTENT, "k")
    torch.testing.assert_close(checkpoint.load(at(tmp_path / "new" / "x.pt"), "k"), CONTENT, rtol=0, atol=0)


def test_a_checkpoint_without_the_fields_that_are_needed_is_refused(tmp_path: Path) -> None:
    checkpoint.save(at(tmp_path / "x.pt"), CONTENT, "k")
    with pytest.raises(checkpoint.UnusableError, match="lacks spec, student"):
        checkpoint.load(at(tmp_path / "x.pt"), "k", fields=("student", "spec", "step"))


def at(path: Path) -> Place:
    return Place(str(path))


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def altered(path: Path) -> None:
    weight = struct.pack("<f", 4321.0)
    path.write_bytes(path.read_bytes().replace(weight, struct.pack("<f", 4320.5)))


def of_another_run(path: Path) -> None:
    checkpoint.save(at(path), CONTENT, "other")


def of_another_program(path: Path) -> None:
    torch.save({"state_dict": {}}, path)


def a_tensor(path: Path) -> None:
    torch.save(torch.ones(3), path)


DAMAGES = {
    truncated: "is damaged",
    altered: "is damaged",
    of_another_run: "belongs to run other",
    of_another_program: "not a checkpoint of eman",
    a_tensor: "not a checkpoint of eman",
}


@pytest.mark.parametrize(("damage", "error"), DAMAGES.items())
def test_a_checkpoint_that_cannot_be_used_is_refused_in_one_line(
    damage: Callable[[Path], None], error: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.pt"
    checkpoint.save(at(path), CONTENT, "k")
    damage(path)
    with pytest.raises(checkpoint.UnusableError, match=error) as caught:
        checkpoint.load(at(path), "k")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_checkpoint_that_cannot_be_used_is_set_aside(
    damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = at(tmp_path)
    names = [checkpoint.newest_name(step) for step in (8, 9, 10)]
    for step, name in enumerate(names):
        checkpoint.write_newest(folder, name, checkpoint.encode(CONTENT | {"step": step}, "k"))
    assert folder.names() == names[1:]
    damage(tmp_path / names[2])
    found = checkpoint.load_newest(folder, "k")
    assert found is not None
    assert found["step"] == 1
    assert f"Set aside as {names[2]}.set-aside" in caplog.text
    assert folder.names() == [names[1], f"{names[2]}.set-aside"]
    damage(tmp_path / names[1])
    assert checkpoint.load_newest(folder, "k") is None
    checkpoint.write_newest(folder, names[0], checkpoint.encode(CONTENT, "k"))  # and the run goes on


@pytest.mark.parametrize("bytes_left", [0, 100, 6_000, 15_000])
def test_a_full_disk_is_named_and_what_was_there_stays(bytes_left: int, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    checkpoint.save(at(path), {"step": 1}, "k")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, before[1]))
    try:
        with pytest.raises(DiskFullError, match=r"the disk is full: .* make room"):
            checkpoint.save(at(path), CONTENT, "k")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert checkpoint.load(at(path), "k") == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt"]
