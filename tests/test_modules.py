"""Modules of one's own: loading, errors, what travels to other processes, identity, and the public names."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import eman.api
from eman.cli import main
from eman.platform.store.records import SWEEP, TRAINING
from eman.platform.store.store import Store
from eman.platform.workspace import Workspace

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

SCHEME = """
from eman.api import Scheme, register_scheme
__version__ = "1.2"
register_scheme({name!r}, Scheme(title="SyncBN / student PN", student="syncbn", teacher="student-pn"))
"""


def program(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, which knows no module of this one."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def eman_in(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return program(f"import sys; from eman.cli import main; sys.exit(main({arguments!r}))", folder, **environment)


def test_a_module_is_found_by_option_variable_project_and_plug_in(tmp_path: Path) -> None:
    for name in ("first", "second", "third", "fourth"):
        (tmp_path / f"{name}.py").write_text(SCHEME.format(name=name))
    (tmp_path / "pyproject.toml").write_text('[tool.eman]\nmodules = ["third.py"]\n')
    plug_in = tmp_path / "site" / "mine-1.0.dist-info"
    plug_in.mkdir(parents=True)
    (tmp_path / "site" / "plugged.py").write_text(SCHEME.format(name="plugged"))
    (plug_in / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (plug_in / "entry_points.txt").write_text("[eman.plugins]\nmine = plugged\n")
    below = tmp_path / "below"
    below.mkdir()
    path = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(tmp_path / "site")])
    for environment, option, found in (
        ({}, ("--module", "../first.py"), {"first", "third", "plugged"}),
        ({"EMAN_MODULES": "../second.py ../fourth.py"}, (), {"second", "fourth", "third", "plugged"}),
    ):
        done = eman_in(below, "schemes", "--json", *option, PYTHONPATH=path, **environment)
        assert done.returncode == 0, done.stderr
        listed = {scheme["name"] for scheme in json.loads(done.stdout)}
        assert listed & {"first", "second", "third", "fourth", "plugged"} == found


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1\ny = x / 0\n", "broken.py:2: ZeroDivisionError: division by zero"),
        ("def f(:\n", "broken.py:1: SyntaxError"),
        ("import not_there_at_all\n", "broken.py:1: ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("\n" + SCHEME.format(name="eman"), "broken.py:5: scheme 'eman' is already registered by eman"),
        (
            "from eman.api import TeacherSection\nclass Own(TeacherSection):\n    weight = 3\n",
            "broken.py:2: PydanticUserError: A non-annotated attribute was detected: `weight = 3`",
        ),
    ],
    ids=["error", "syntax", "missing", "taken", "untyped"],
)
def test_an_import_that_fails_says_where(
    code: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.py").write_text(code)
    assert main(["schemes", "--module", str(tmp_path / "broken.py")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing.py", "does not exist"),
        ("random.py", "another module named random"),
        ("a-b.py", "cannot be a module's"),
    ],
)
def test_a_file_that_cannot_be_a_module_is_refused(
    name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name != "nothing.py":
        (tmp_path / name).write_text("")
    assert main(["schemes", "--module", str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err


def test_a_job_takes_its_module_to_a_process_without_the_file(tmp_path: Path) -> None:
    (tmp_path / "mean_teacher.py").write_text((EXAMPLES / "mean_teacher.py").read_text())
    send = f"""
import pickle
from eman.platform import modules
from eman.platform.workspace import Workspace
from eman.sweeps.profiles.registry import profile_named
from eman.sweeps.run.jobs import TrainJob
modules.load(["mean_teacher.py"])
spec = profile_named("smoke").run("mean-teacher", "eman")
job = TrainJob(spec=spec, title="t", profile="smoke", workspace=Workspace("{tmp_path}"), launch="l")
open("job", "wb").write(pickle.dumps([job, job]))
"""
    done = program(send, tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "mean_teacher.py").unlink()
    receive = """
import pickle, sys
first, second = pickle.loads(open("job", "rb").read())
import mean_teacher
assert type(first.spec.method) is mean_teacher.MeanTeacherSpec
assert first.spec.entry.title == "Mean Teacher" and first.spec.key == second.spec.key
from eman.platform import modules
assert [source.name for source in modules.sources()] == ["mean_teacher"]  # and on to the next process
"""
    done = program(receive, tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_submitted_job_gets_the_module_and_a_sweep_records_it(tmp_path: Path, store_file: Path) -> None:
    (tmp_path / "mine.py").write_text(SCHEME.format(name="mine"))
    (tmp_path / "study.py").write_text((EXAMPLES / "statistics_table.py").read_text())
    code = """
import json
from pathlib import Path
from eman.platform import modules
from eman.platform.store.store import Store
from eman.platform.workspace import Workspace
modules.load(["mine.py", "study.py"], given=True)
from eman.sweeps.plan import plan
from eman.sweeps.request import SweepRequest
from eman.sweeps.run.options import Options
from eman.sweeps.run.publish import begin_sweep
from eman.sweeps.run.submit import write_packages
sweep = plan(SweepRequest(tables=["statistics"], profile="smoke"))
begin_sweep(sweep, Store(Workspace.from_environment()), 0.0, Options()).interrupt()
print(json.dumps([write_packages(Path("sent")), [source.digest for source in modules.sources()]]))
"""
    done = program(code, tmp_path)
    assert done.returncode == 0, done.stderr
    packages, digests = json.loads(done.stdout)
    assert packages == ["sent/mine", "sent/study"]
    again = "from eman.platform import modules; modules.load(['mine', 'study'])"
    again += "; print(*[source.digest for source in modules.sources()])"
    assert program(again, tmp_path / "sent").stdout.split() == digests  # the same modules, to a run's record
    [record] = Store(Workspace.from_environment()).records(SWEEP)
    assert {name for name in record.tags if name.startswith("eman.module.")} == {"eman.module.study"}
    assert record.params["command"].startswith("eman --module mine.py --module study.py sweep statistics")
    report = eman_in(tmp_path, "report", "--out", "report.html")
    assert "uses module study, which is not loaded" in report.stderr


def test_the_program_itself_cannot_travel(tmp_path: Path) -> None:
    done = program(SCHEME.format(name="mine") + "from eman.api import sweep\nsweep('table1')", tmp_path)
    assert "move it into a file" in done.stderr.splitlines()[-1]


def test_version_is_part_of_the_key_and_version_1_is_not(tmp_path: Path) -> None:
    keys = {}
    for version in ("", ", version=1", ", version=2"):
        code = f"""
from eman.api import Scheme, StudentNorm, register_norm, register_scheme, profile_named
register_norm("gn8", StudentNorm(title="GN8", groups=8, rule="GN over 8 groups"{version}))
register_scheme("gn8", Scheme(title="GN8 / GN8", student="gn8", teacher="gn8"))
print(profile_named("smoke").run("moco", "gn8").key, profile_named("smoke").run("moco", "eman").key)
"""
        done = program(code, tmp_path)
        assert done.returncode == 0, done.stderr
        keys[version], built_in = done.stdout.split()
        assert built_in == "59438025499cb38f"  # in the pages since before there were versions
    assert keys[""] == keys[", version=1"] != keys[", version=2"]


def test_a_module_is_recorded_and_its_change_warned_about(tmp_path: Path, store_file: Path) -> None:
    norm = """
from eman.api import TeacherNorm, register_teacher_norm, Scheme, register_scheme
__version__ = "1.2"
register_teacher_norm("mine", TeacherNorm(title="mine", rule="none"))
register_scheme("mine", Scheme(title="BN / mine", teacher="mine"))
"""
    (tmp_path / "mine.py").write_text(norm)
    record = """
import mine
from eman.api import profile_named
from eman.platform.store.records import TRAINING
from eman.platform.store.store import Store
from eman.platform.workspace import Workspace
from eman.trainers.spec.labels import record_params, record_tags
spec = profile_named("smoke").run("moco", "mine")
tags = record_tags(spec, "smoke")
Store(Workspace.from_environment()).begin(TRAINING, spec.key, "a run", params=record_params(spec), tags=tags).finish({})
"""
    assert program(record, tmp_path).returncode == 0
    [run] = Store(Workspace.from_environment()).records(TRAINING)
    assert run.tags["eman.module.mine"].startswith("1.2 sha256:")
    shown = eman_in(tmp_path, "runs", "show", run.key, "--json")
    assert json.loads(shown.stdout)["modules"] == {"mine": run.tags["eman.module.mine"]}
    done = eman_in(tmp_path, "evaluate", run.key)
    assert done.returncode == 2
    assert "uses module mine, which is not loaded; give it by --module." in done.stderr
    table = ("table", "schemes", "--module", "mine.py", "--profile", "smoke")
    for text, warned in ((norm, False), (norm + "# changed", True), (norm.replace("1.2", "1.3"), False)):
        (tmp_path / "mine.py").write_text(text)
        done = eman_in(tmp_path, *table)
        assert ("module mine has changed since 1 of the finished runs" in done.stderr) == warned, done.stderr


def test_the_api_has_these_names() -> None:
    names = """
        Cell CellRef Claim Contrast Criterion Expect LabelledSection Measured Method Move OptimSpec Parts Profile
        Protocol ProtocolSpec RunSpec Scheme Scope SemiSupervisedSection StatisticsRule StudentNorm Table Teacher
        TeacherNorm TeacherSection UnlabelledSection UserError ViewOptions Wanted along_cosine convert_norm gather_rows
        profile_named register_backbone register_claim register_dataset register_method register_norm register_profile
        register_protocol register_scheme register_table register_teacher_norm results run sweep
    """
    assert eman.api.__all__ == names.split()
    for name in eman.api.__all__:
        assert getattr(eman.api, name).__doc__, name


def test_the_teacher_needs_torch_alone() -> None:
    code = """
import sys, torch
before = set(sys.modules)
from eman import Scheme, Teacher, convert_norm
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(new - {"eman", "torch"} - sys.stdlib_module_names))
"""
    assert program(code, Path.cwd()).stdout.strip() == ""


def test_schemes_and_tables_of_ones_own_need_no_torch(tmp_path: Path) -> None:
    (tmp_path / "statistics_table.py").write_text((EXAMPLES / "statistics_table.py").read_text())
    code = """
import sys
from eman.cli import main
assert main(["sweep", "statistics", "--module", "statistics_table.py", "--profile", "smoke", "--dry-run"]) == 0
assert main(["claims", "statistics-byol", "--module", "statistics_table.py", "--profile", "smoke"]) == 0
assert not {"torch", "ray", "mlflow"} & sys.modules.keys()
"""
    done = program(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "4 cells, 4 trainings" in done.stdout
