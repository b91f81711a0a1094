"""The command line is a contract: scripts rely on it."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest

from eman.cli import main
from eman.evaluation.protocols.spec import settable
from eman.platform.store.records import TRAINING
from eman.platform.store.store import Store
from eman.platform.workspace import Workspace
from eman.sweeps.profiles.registry import PROFILES
from eman.trainers.norm.schemes import SCHEMES
from eman.trainers.spec.fields import parse_fields


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("profile", ["quick", "cifar10", "stl10"])
def test_dry_run_as_json(profile: str, capsys: pytest.CaptureFixture[str], home: Path) -> None:
    code, out, _ = call(capsys, "sweep", "table1", "table8", "--profile", profile, "--dry-run", "--json")
    assert code == 0
    plan = json.loads(out)
    assert (plan["cells"], plan["runs"]) == (46, 35)
    assert not list(home.iterdir())


@pytest.mark.parametrize("option", ["--home", "--data", "--store"])
def test_an_option_of_all_commands_behind_one_is_told_its_place(
    option: str, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    code, _, err = call(capsys, "sweep", "table1", option, "elsewhere")
    assert code == 2
    assert f"{option} stands before the command: eman {option} ... COMMAND" in err
    assert not list(home.iterdir())


def test_frozen_options(capsys: pytest.CaptureFixture[str]) -> None:
    for command, options in {
        ("sweep",): (
            "--profile",
            "--seeds",
            "--workers",
            "--address",
            "--dry-run",
            "--json",
            "--name",
            "--grid",
            "--method",
            "--scheme",
            "--linear-lr",
            "--range",
            "--search",
            "--samples",
            "--search-seed",
            "--scheduler",
            "--grace",
            "--reduction",
            "--objective",
            "--set",
            "--ema-scaling",
            "--note",
            "--tag",
        ),
        ("train",): ("--scheme", "--profile", "--seed", "--set", "--workers"),
        ("table",): ("--profile", "--format", "--out", "--seeds", "--network", "--selection", "--against", "--json"),
        ("evaluate",): ("--protocol", "--network", "--selection", "--set"),
        ("plan",): (
            "--profile",
            "--seeds",
            "--images-per-second",
            "--grid",
            "--json",
            "--price-per-gpu-hour",
            "--watts",
        ),
        ("figure",): ("--out", "--profile", "--seeds"),
        ("ui",): ("--port", "--host", "--allowed-host", "--open"),
        ("store", "migrate"): ("SRC", "DST", "checkpoints"),
        ("status",): ("--runs", "--watch", "--every", "--newest", "--json"),
        ("report",): ("--out", "--price-per-gpu-hour", "--watts"),
        ("predict",): ("--network", "--selection", "--top", "--k", "--json"),
        ("submit",): ("--address", "--detach", "--dry-run", "--profile", "--grid", "--workers"),
        ("runs", "list"): ("--newest", "--json"),
        ("runs", "register"): ("--name", "--alias", "--network", "--selection"),
        ("runs", "show"): ("--json",),
        ("runs", "rm"): ("--yes",),
        ("runs", "prune"): ("--yes",),
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
        (["sweep", "table1", "--seeds", "0"], "seeds is 0"),
        (["sweep", "table1", "--seeds", "1000000"], "give a number of seeds from 1 to 100"),
        (["sweep", "table1", "--seeds", "1,1"], "give each seed once"),
        (["sweep", "table1", "--seeds", "2", "--set", "seed=1"], "give one of the two"),
        (["sweep", "table1", "--json"], "--json needs --dry-run"),
        (["sweep", "table1", "--wait", "3"], "--wait has no effect without --address"),
        (["sweep", "table1", "--workers", "0"], "--workers 0"),
        (["sweep", "table1", "--workers", "3", "--dry-run", "--profile", "smoke"], "--workers 3 does not divide"),
        (["sweep", "1", "--profile", "smoke", "--set", "dataset=nonsense", "--dry-run"], "unknown dataset 'nonsense'"),
        (["sweep", "1", "--profile", "smoke", "--set", "backbone=vit", "--dry-run"], "unknown backbone 'vit'"),
        (["sweep", "table1", "--name", "table2"], "neither a table's name"),
        (["table", "1", "--json", "--format", "csv"], "give one of the two"),
        (["table", "tabel1"], "did you mean 'table1'"),
        (["table", "grid"], "For a new grid give --method"),
        (["status", "--every", "3"], "no effect without --watch"),
        (["status", "--watch", "--json"], "give one of the two"),
        (["status", "--watch", "--newest", "3"], "--watch and --newest"),
        (["status", "--newest", "-1"], "--newest"),
        (["submit", "1", "--address", "http://127.0.0.1:9", "--dry-run", "--detach"], "--detach has no effect"),
        (["runs", "rm", "abc"], "there is no such run"),
        (["runs", "show", "abc"], "there is no such run"),
        (["sweep", "table1", "--profile", "imagenet"], "imagenet must hold train/CLASS"),
        (["sweep", "table1", "--method", "moco"], "belongs to `eman sweep grid`"),
        (["sweep", "grid"], "a grid needs methods and schemes"),
        (["sweep", "grid", "table1"], "grid cannot be combined with table1"),
        (
            ["sweep", "grid", "--method", "moco", "--scheme", "eman", "--grid", "eman_momentum=high"],
            "eman_momentum is 'high'",
        ),
        (["sweep", "grid", "--method", "moco", "--scheme", "eman", "--grid", "lr"], "give FIELD=VALUE,VALUE"),
        (["sweep", "grid", "--method", "moco", "--scheme", "bn", "--grid", "lrr=1"], "did you mean 'lr'"),
        (["train", "mocoo"], "did you mean 'moco'"),
        (["train", "moco", "--scheme", "emman"], "did you mean 'eman'"),
        (["train", "moco", "--set", "epoch=2"], "did you mean 'epochs'"),
        (["train", "moco", "--set", "dataset=digit"], "did you mean 'digits'"),
        (["train", "moco", "--set", "backbone=smal"], "did you mean 'small'"),
        (["train", "moco", "--workers", "3"], "--workers 3 does not divide"),
        (["table", "9"], "unknown table 'table9'"),
        (["table", "1", "--format", "parquet"], "needs --out"),
        (["table", "1", "--format", "excel"], "excel"),
        (["table", "1", "--network", "techer"], "teacher"),
        (["table", "1", "--against", "nowhere"], "nowhere holds no MLflow store"),
        (["plan", "table1", "--images-per-second", "fast"], "give a number, or METHOD=NUMBER"),
        (["plan", "table1", "--images-per-second", "mocco=5"], "did you mean 'moco'"),
        (["evaluate", "abc"], "there is no such run"),
        (["evaluate", "abc", "--set", "kk=5"], "unknown field of knn 'kk'"),
        (["sweep", "table6", "--set", "init=abc"], "init cannot be set by hand"),
        (["status", "--watch", "--every", "0"], "--every"),
        (["report", "table1"], "the store holds no sweep yet"),
        (["predict", "abc", "shoe.png"], "there is no such run"),
        (["predict", "abc"], "IMAGE"),
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
    lines = err.splitlines()
    assert message in lines[-1]
    assert [line for line in lines if line.startswith("eman: ")] == [lines[-1]]  # before it, only what is being done
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not a CSV file with a column Index"),
        ("Image\n3\n", "not a CSV file with a column Index"),
        ("Index\nthree\n", "not a CSV file with a column Index"),
        ("Index\n\n", "lists no image"),
        ("Index\n3\n1343\n", "lists image 1343, which is not among the 1,343 training images of digits"),
        ("Index\n-1\n", "lists image -1"),
        ("Index\n3\n1342\n", ""),
    ],
)
def test_a_dry_run_reads_the_index_file(
    content: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "digits" / "indexes").mkdir(parents=True)
    if content is not None:
        (tmp_path / "digits" / "indexes" / "few.csv").write_text(content)
    grid = ["grid", "--method", "fixmatch", "--scheme", "eman", "--profile", "smoke", "--set", "label_index=few"]
    code, _, err = call(capsys, "--data", str(tmp_path), "sweep", *grid, "--dry-run")
    assert code == (2 if message else 0)
    assert message in err


def test_a_dry_run_of_a_submission_checks_shared_data_and_names_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submission = ["submit", "4", "--profile", "imagenet", "--dry-run", "--address", "http://127.0.0.1:9"]
    code, out, _ = call(capsys, "--data", str(tmp_path), *submission)
    assert code == 0
    assert out.endswith("Only the cluster can check that it can read imagenet, and that one run fits its resources.\n")
    code, _, err = call(capsys, "--data", f"file://{tmp_path}", *submission)  # a URI means the same everywhere
    assert code == 2
    assert "imagenet must hold train/CLASS" in err


def test_a_table_of_an_empty_store_says_missing(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "table", "1", "--profile", "smoke")
    assert code == 0
    assert out.count("missing") == 21


def test_training_in_the_foreground_and_again(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    arguments = ["train", "moco", "--scheme", "eman", "--profile", "smoke", "--set", "epochs=1"]
    code, out, err = call(capsys, *arguments)
    assert code == 0
    assert "BN / EMAN · MoCo · s0" in out
    assert "epoch 1/1" in err
    assert {p.name for p in (home / "runs").glob("*/*.pt")} == {
        "last.pt",
        "best.pt",
        "features-student-last.pt",
        "features-student-best.pt",
    }
    assert "is already done" in call(capsys, *arguments)[1]


def test_a_finished_run_is_evaluated_in_the_foreground(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "train", "moco", "--scheme", "eman", "--set", "epochs=1")[0] == 0
    assert (
        call(
            capsys, "train", "moco", "--scheme", "bn", "--set", "lr=1e4", "--set", "weight_decay=1", "--set", "epochs=1"
        )[0]
        == 2
    )
    listed = call(capsys, "status", "--runs")[1].splitlines()
    [key] = [line.split()[0] for line in listed if "done" in line]
    [failed] = [line.split()[0] for line in listed if "failed" in line]
    code, out, _ = call(capsys, "evaluate", key[:6], "--protocol", "knn", "--set", "k=5", "--network", "teacher")
    assert code == 0
    assert "kNN · k 5 · teacher" in out
    assert "knn/test_top1" in out
    again = call(capsys, "evaluate", key, "--protocol", "knn", "--set", "k=5", "--network", "teacher")[1]
    assert "is already done" in again
    assert out.splitlines()[1:] == again.splitlines()[1:]
    for arguments, message in (
        ([key[:-1] + "-"], f"nearest: {key}"),
        ([""], f"several runs match; nearest: {listed[0].split()[0]}"),
        ([failed], "is failed (collapsed at epoch 1: the loss is not finite); only finished runs can be used"),
        ([key, "--set", "k=9999"], "k is 9999, and there are"),
        ([key, "--protocol", "linear", "--set", "k=5"], "unknown field of linear 'k'"),
        ([key, "--protocol", "liner"], "did you mean 'linear'"),
        (
            [key, "--protocol", "lowshot", "--set", "shots=900"],
            "shots is 900, and the smallest class of digits has 114 images",
        ),
    ):
        code, _, err = call(capsys, "evaluate", *arguments)
        assert code == 2
        assert message in err
        assert err.count("\n") == 1


def test_a_plan_says_what_a_table_costs(capsys: pytest.CaptureFixture[str]) -> None:
    plan = ["plan", "table2", "--profile", "imagenet"]
    code, out, _ = call(capsys, *plan, "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["cells"], found["runs"], found["hours"]) == (102, 11, None)
    # Pretraining: MoCo 200 and 800 epochs, 200 at twice the width, BYOL 200, each with and without EMAN. Supervised: 90
    # epochs of all labels, 100 of 1 % and of 10 %.
    assert found["epochs"] == 2 * (200 + 800 + 200 + 200) + 90 + 100 + 100
    speeds = ["--images-per-second", "moco=1000,byol=1000,supervised=1000", "--json"]
    assert json.loads(call(capsys, *plan, *speeds)[1])["hours"] == pytest.approx(found["images"] / 1000 / 3600)
    images = 1_281_167
    labelled = 50 * (5 * round(0.01 * images) + 3 * round(0.1 * images) + images)
    evaluated = 8 * (labelled + 3 * labelled)  # linear: three rates share a pass; finetuning: three rates of their own
    pretrained = 2 * (200 + 800 + 200 + 200) * images
    supervised = 90 * images + 100 * (round(0.01 * images) + round(0.1 * images))
    assert found["images"] == pretrained + supervised + evaluated
    assert "hours: unknown" in call(capsys, *plan)[1]
    priced = call(capsys, *plan, *speeds, "--watts", "400", "--price-per-gpu-hour", "2.5")[1]
    hours = found["images"] / 1000 / 3600
    assert json.loads(priced)["kwh"] == pytest.approx(0.4 * hours)
    assert json.loads(priced)["price"] == pytest.approx(2.5 * hours)


def test_profiles_are_listed_and_described(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "profiles")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == list(PROFILES)
    code, out, _ = call(capsys, "profiles", "cifar10")
    assert code == 0
    commands = re.findall(r"^ +eman (train [^\\]*?)(?:  |\\)", out, re.MULTILINE)
    assert len(commands) == 9
    for command in commands:  # each makes a run
        _, method, *words = command.split()
        fields = parse_fields(value for name, value in pairwise(words) if name == "--set")
        assert PROFILES["cifar10"].run(method, "default", 0, fields).data.dataset == "cifar10"
    assert call(capsys, "profiles", "cifar")[0] == 2


@pytest.mark.parametrize("profile", ["cifar10", "stl10", "imagenette"])
def test_all_tables_are_planned_without_the_data(profile: str, capsys: pytest.CaptureFixture[str]) -> None:
    tables = [f"table{number}" for number in range(1, 9)]
    speed = ["--images-per-second", "1000", "--json"]
    code, out, _ = call(capsys, "plan", *tables, "--profile", profile, *speed)
    assert code == 0
    found = json.loads(out)
    assert found["cells"] == 334
    assert found["hours"] == pytest.approx(found["images"] / 1000 / 3600)


def test_doctor_and_data(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "doctor")
    assert code in (0, 1)
    assert "torch" in out
    assert "digits" in out
    assert "digits" in call(capsys, "data", "list")[1]
    assert "1,343" in call(capsys, "data", "fetch", "digits")[1]


def test_schemes_are_listed_with_equation_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "schemes", "--json")
    assert code == 0
    listed = {scheme["name"]: scheme for scheme in json.loads(out)}
    assert listed.keys() == SCHEMES.keys()
    for scheme in listed.values():
        assert all(scheme["student"].values())
        assert all(scheme["teacher"].values())
    assert "arXiv 2101.07525" in call(capsys, "schemes", "momentum2")[1]
    assert "did you mean 'frozen'" in call(capsys, "schemes", "frosen")[2]


def test_the_fields_of_an_evaluation_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fields", "knn", "--json"]) == 0
    listed = {field["name"]: field for field in json.loads(capsys.readouterr().out)}
    assert set(listed) == set(settable("knn"))
    assert all(field["description"] and field["type"] for field in listed.values())


def test_status_shows_the_newest_runs_and_says_so(store_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(Workspace.from_environment())
    for number in range(5):
        tags = {"profile": "smoke", "method": "MoCo"}
        store.begin(TRAINING, f"key{number}", f"run {number}", params={}, tags=tags).finish()
    code, out, _ = call(capsys, "status", "--newest", "3")
    assert code == 0
    assert "done       3" in out
    assert "the newest 3 trainings; --newest N shows more" in out
    assert len(json.loads(call(capsys, "runs", "list", "--newest", "2", "--json")[1])) == 2
    assert "newest" not in call(capsys, "runs", "list")[1]
