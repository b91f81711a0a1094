"""The command line is a contract: scripts rely on it."""

import json
from pathlib import Path

import pytest

from eman.cli import main


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_dry_run_as_json(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    code, out, _ = call(capsys, "sweep", "table1", "table8", "--profile", "quick", "--dry-run", "--format", "json")
    assert code == 0
    plan = json.loads(out)
    assert (plan["cells"], plan["runs"]) == (46, 35)
    assert not list(home.iterdir())


def test_frozen_options(capsys: pytest.CaptureFixture[str]) -> None:
    for command, options in {
        ("sweep",): (
            "--profile",
            "--seeds",
            "--workers",
            "--address",
            "--dry-run",
            "--format",
            "--method",
            "--scheme",
            "--eman-momentum",
            "--linear-lr",
            "--set",
        ),
        ("train",): ("--scheme", "--profile", "--seed", "--set", "--workers"),
        ("table",): ("--profile", "--format", "--out", "--seeds"),
        ("ui",): ("--port",),
        ("status",): (),
        ("doctor",): (),
        ("data", "list"): (),
        ("data", "fetch"): (),
    }.items():
        code, out, _ = call(capsys, *command, "--help")
        assert code == 0
        for option in options:
            assert option in out, (command, option)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", "tabel1"], "did you mean 'table1'"),
        (["sweep", "table1", "--profile", "quik"], "did you mean 'quick'"),
        (["sweep", "table1", "--seeds", "0"], "--seeds 0"),
        (["sweep", "table1", "--profile", "imagenet"], "needs the data set 'imagenet'"),
        (["sweep", "table1", "--method", "moco"], "belongs to `eman sweep grid`"),
        (["sweep", "grid"], "needs --method and --scheme"),
        (["sweep", "grid", "table1"], "grid stands alone"),
        (["sweep", "grid", "--method", "moco", "--scheme", "eman", "--eman-momentum", "high"], "--eman-momentum high"),
        (["train", "mocoo"], "did you mean 'moco'"),
        (["train", "moco", "--scheme", "emman"], "did you mean 'eman'"),
        (["train", "moco", "--set", "epoch=2"], "did you mean 'epochs'"),
        (["train", "moco", "--set", "dataset=digit"], "did you mean 'digits'"),
        (["train", "moco", "--set", "backbone=smal"], "did you mean 'small'"),
        (["train", "moco", "--workers", "3"], "--workers 3 does not divide"),
        (["table", "9"], "unknown table 'table9'"),
        (["table", "1", "--format", "parquet"], "needs --out"),
        (["table", "1", "--format", "excel"], "excel"),
        (["data", "fetch", "mnist"], "did you mean 'fashion-mnist'"),
        (["--store", "http://127.0.0.1:9", "table", "1"], "cannot be reached"),
        (["trian"], "trian"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    code, out, err = call(capsys, *arguments)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert "Traceback" not in out + err


def test_a_table_of_an_empty_store_says_missing(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "table", "1", "--profile", "smoke")
    assert code == 0
    assert out.count("missing") == 21


def test_training_in_the_foreground_and_again(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    arguments = ["train", "moco", "--scheme", "eman", "--profile", "smoke", "--set", "epochs=1"]
    code, out, err = call(capsys, *arguments)
    assert code == 0
    assert "moco · BN / EMAN · seed 0" in out
    assert "epoch 1/1" in err
    assert {p.name for p in (home / "runs").glob("*/*.pt")} == {
        "last.pt",
        "best.pt",
        "features-student-last.pt",
        "features-student-best.pt",
    }
    assert "is done already" in call(capsys, *arguments)[1]


def test_doctor_and_data(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "doctor")
    assert code in (0, 1)
    assert "torch" in out
    assert "digits" in out
    assert "digits" in call(capsys, "data", "list")[1]
    assert "1,343" in call(capsys, "data", "fetch", "digits")[1]
