"""The examples, and what `eman new` writes, with the wheel, in a folder from which the repository is not visible."""

import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

pytestmark = pytest.mark.slow

#: A head without processors and two nodes, until its input ends.
NODES = """
import sys, tempfile
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
for _ in range(2):
    cluster.add_node(num_cpus=1, temp_dir=tempfile.mkdtemp(prefix="ray"))
print("READY", cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""

#: Loads a module, removes its file, and runs a sweep: only the driver has ever seen the file.
DRIVER = """
import sys
from pathlib import Path
from eman.platform import modules
modules.load(["mean_teacher.py"])
Path("mean_teacher.py").unlink()
from eman.api import results, sweep
cells = sweep(methods=["mean-teacher"], schemes=["bn", "eman"], profile="smoke", seeds=2, address=sys.argv[1])
assert list(cells.status) == ["done", "done"], cells
found = results()
assert found["tags.eman.module.mean_teacher"].str.startswith("sha256:").all()
print(len(found), "runs")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with copies of the examples."""
    for path in EXAMPLES.glob("*.py"):
        shutil.copy(path, tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "printed"),
    [
        ("train mean-teacher --scheme eman --module mean_teacher.py", "train/loss_consistency"),
        ("train dino --scheme eman --module dino.py", "test/knn_top1"),
        ("train simsiam --module dino.py", "test/knn_top1"),
        ("train moco --scheme warm-eman --module warm_teacher.py", "test/knn_top1"),
        ("sweep statistics --module statistics_table.py --profile smoke", "mean over devices"),
        ("claims statistics-byol --module statistics_table.py --profile smoke", "whose statistics EMAN averages"),
    ],
    ids=lambda value: value.split(" --module")[0] if " --module" in value else "",
)
def test_an_example_runs(command: str, printed: str, folder: Path, wheel_environment: Any) -> None:
    done = wheel_environment.run("eman", *command.split(), cwd=folder)
    assert printed in done.stdout


def test_a_backbone_of_ones_own_and_one_of_timms_train_on_a_folder_of_images(
    folder: Path, wheel_environment: Any
) -> None:
    wheel_environment.run("python", "backbone.py", cwd=folder)
    train = "train moco --scheme eman --set dataset=./images --set epochs=1 --module backbone.py"
    for fields in ("backbone=tiny image_size=16", "backbone=timm:test_resnet image_size=32"):
        words = [word for field in fields.split() for word in ("--set", field)]
        done = wheel_environment.run("eman", *train.split(), *words, cwd=folder)
        assert "test/knn_top1" in done.stdout


def test_the_teacher_runs_in_loops_of_ones_own(folder: Path, wheel_environment: Any) -> None:
    done = wheel_environment.run("python", "plain_loop.py", cwd=folder)
    lines = done.stdout.splitlines()
    assert len(lines) == (2 if find_spec("pytorch_lightning") else 1)
    assert all(line.endswith("True") for line in lines)


@pytest.mark.parametrize("kind", ["method", "scheme", "study"])
def test_what_new_writes_works_and_passes_its_test(kind: str, tmp_path: Path, wheel_environment: Any) -> None:
    wheel_environment.run("eman", "new", kind, "my-idea", cwd=tmp_path)
    wheel_environment.run("python", "-m", "pytest", "-q", "test_my_idea.py", cwd=tmp_path)
    command = {"method": "fields my-idea", "scheme": "schemes my-idea", "study": "table my-idea"}[kind]
    wheel_environment.run("eman", *command.split(), "--module", "my_idea.py", cwd=tmp_path)
    assert "exists" in wheel_environment.run("eman", "new", kind, "my-idea", cwd=tmp_path, code=2).stderr


@pytest.fixture
def address(wheel_environment: Any, tmp_path: Path) -> Iterator[str]:
    """The address of a Ray cluster of two nodes, whose processes have the wheel."""
    with wheel_environment.nodes(NODES, tmp_path) as [printed]:
        yield printed


def test_a_method_of_ones_own_trains_on_two_nodes_that_lack_its_file(
    address: str, folder: Path, wheel_environment: Any
) -> None:
    done = wheel_environment.run("python", "-c", DRIVER, address, cwd=folder)
    assert done.stdout.splitlines()[-1] == "4 runs"
