"""Outputs of commands: whole or not at all, and refused in one line."""

import contextlib
import os
from pathlib import Path

import pytest

from eman.platform.errors import UserError
from eman.platform.output import check_output, output_file, output_folder


def test_a_file_is_replaced_when_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")
    with output_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    with contextlib.suppress(RuntimeError), output_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


@pytest.mark.parametrize("name", ["", ".", "folder", "missing/x.txt", "file/x.txt"])
def test_a_path_that_takes_no_file_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--out"):
        check_output(Path(name))
    with pytest.raises(UserError, match="--out"), output_file(Path(name)):
        pytest.fail("nothing may be computed for it")


@pytest.mark.skipif(os.getuid() == 0, reason="nothing is closed to root")
def test_a_folder_that_is_not_writable_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(UserError, match="not writable"):
        check_output(tmp_path / "x.txt")


def test_a_folder_is_made_whole_and_never_replaced(tmp_path: Path) -> None:
    with contextlib.suppress(RuntimeError), output_folder(tmp_path / "x") as temporary:
        temporary.mkdir()
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with output_folder(tmp_path / "x") as temporary:
        temporary.mkdir()
        (temporary / "y").write_text("")
    assert (tmp_path / "x" / "y").exists()
    with pytest.raises(UserError, match="never replaced"), output_folder(tmp_path / "x"):
        pytest.fail("nothing may be computed for it")
    with pytest.raises(UserError, match="no folder"), output_folder(tmp_path / "missing" / "x"):
        pytest.fail("nothing may be computed for it")
