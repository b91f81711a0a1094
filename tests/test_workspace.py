"""The workspace: what is given, else the environment, else the defaults."""

import pickle
from pathlib import Path

import pytest

from eman.cli import main
from eman.platform.workspace import Settings, Workspace


def test_what_is_given_goes_before_the_environment(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMAN_DATA", "s3://bucket/data/")
    found = Workspace.from_environment()
    assert (found.home, found.data, found.store) == (str(home), "s3://bucket/data", f"sqlite:///{home / 'mlflow.db'}")
    assert found.data_folder == Path("~/.cache/eman").expanduser().resolve()  # of what is held in memory
    given = Workspace.from_environment(home=str(tmp_path / "a"), data=str(tmp_path), store="http://h:1")
    assert (given.home, given.data_folder, given.store) == (str(tmp_path / "a"), tmp_path, "http://h:1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://h:2")
    assert Workspace.from_environment(home=str(tmp_path)).store == "http://h:2"


def test_paths_do_not_depend_on_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    workspace = Workspace("x", data="data")
    monkeypatch.chdir("/")
    assert workspace.run_folder("k").local == tmp_path / "x" / "runs" / "k"
    assert workspace.data_folder == tmp_path / "data"
    assert pickle.loads(pickle.dumps(workspace)) == workspace


def test_settings_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMAN_CHECKPOINT_SECONDS", "0.5")
    monkeypatch.setenv("EMAN_MOST_CORRUPT", "7")
    workspace = Workspace.from_environment()
    monkeypatch.setenv("EMAN_CHECKPOINT_SECONDS", "9")
    assert workspace.settings == Settings(checkpoint_seconds=0.5, most_corrupt=7)


def test_reading_commands_create_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "none"
    for command in (["status"], ["status", "--runs"], ["table", "1", "--profile", "smoke"], ["status", "--watch"]):
        assert main(["--home", str(home), *command]) == 0, command
    assert not list(tmp_path.iterdir())
