"""Networks from elsewhere and for elsewhere, with files built in the official layouts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torchvision import models

from eman.cli import main
from eman.evaluation import features
from eman.evaluation.exchange.layouts import read
from eman.evaluation.trained import Trained
from eman.platform import checkpoint
from eman.platform.errors import UserError
from eman.platform.store.records import TRAINING
from eman.platform.store.store import Store
from eman.platform.workspace import Workspace
from eman.trainers.backbones.registry import BACKBONES
from eman.trainers.data import catalog as data
from eman.trainers.data.splits import Split


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def official(path: Path, student: str, teacher: str, channels: int = 3) -> tuple[dict[str, torch.Tensor], Path]:
    """A ResNet-18 in an official layout, trained statistics and all; returns the student's state and the file."""
    states = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = models.resnet18(num_classes=7)
        if channels != 3:
            network.conv1 = torch.nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
        network.train()(torch.randn(4, channels, 32, 32))
        states.append(network.state_dict())
    state = {
        f"module.{prefix}{name}": value
        for prefix, part in zip((student, teacher), states, strict=True)
        for name, value in part.items()
    }
    torch.save({"epoch": 200, "arch": "resnet18", "state_dict": state | {"module.queue": torch.zeros(128, 8)}}, path)
    return states[0], path


@pytest.mark.parametrize(
    ("layout", "student", "teacher"),
    [
        ("moco", "encoder_q.", "encoder_k."),
        ("byol", "online_net.backbone.", "target_net.backbone."),
        ("fixmatch", "main.", "ema."),
    ],
)
def test_official_layouts_are_read_name_by_name(layout: str, student: str, teacher: str, tmp_path: Path) -> None:
    state, path = official(tmp_path / "c.pth", student, teacher)
    found = read(path, layout)
    assert (found.backbone, found.channels) == ("resnet18", 3)
    assert found.teacher is not None
    ours = {name for name in state if not name.startswith("fc.")}
    assert found.student.keys() == found.teacher.keys() == ours
    assert all(torch.equal(found.student[name], state[name]) for name in ours)
    assert not torch.equal(found.student["conv1.weight"], found.teacher["conv1.weight"])
    assert found.taken[f"module.{student}layer1.0.bn1.running_mean"] == "student layer1.0.bn1.running_mean"
    assert set(found.left) == {
        "module.queue",
        *(f"module.{p}fc.{n}" for p in (student, teacher) for n in ("weight", "bias")),
    }


def test_an_imported_network_is_evaluated_started_from_and_given_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state, path = official(tmp_path / "c.pth", "encoder_q.", "encoder_k.", channels=1)
    given = ["import", str(path), "--as", "moco", "--scheme", "eman", "--dataset", "digits"]
    code, out, _ = call(capsys, *given)
    assert code == 0
    assert "BN / EMAN · MoCo · s0 · imported" in out
    assert "module.queue left" in out
    assert "module.encoder_q.conv1.weight -> student conv1.weight" in out
    [record] = Store(Workspace.from_environment()).records(TRAINING)
    assert record.status == "done"
    trained = Trained(record.key, Workspace.from_environment())
    plain = models.resnet18(num_classes=7)
    plain.conv1 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    plain.load_state_dict(state)
    plain.fc = torch.nn.Identity()
    x = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(trained.backbone().eval()(x), plain.eval()(x))
    code, out, _ = call(capsys, "evaluate", record.key, "--protocol", "knn")
    assert code == 0
    assert "knn/test_top1" in out
    assert call(capsys, *given, "--quiet")[1].count("\n") == 2
    assert len(Store(Workspace.from_environment()).records(TRAINING)) == 1

    exported = tmp_path / "out.pth"
    assert call(capsys, "export", record.key[:8], "--out", str(exported))[0] == 0
    again = torch.load(exported, weights_only=True)
    theirs = models.resnet18()
    theirs.conv1 = plain.conv1
    theirs.load_state_dict(again)  # strictly
    assert all(torch.equal(again[name], state[name]) for name in state if not name.startswith("fc."))
    tensors = tmp_path / "out.safetensors"
    assert (
        call(capsys, "export", record.key, "--format", "safetensors", "--network", "teacher", "--out", str(tensors))[0]
        == 0
    )
    with safe_open(tensors, "pt") as file:
        assert file.metadata()["run"] == record.key
        assert set(file.keys()) == set(BACKBONES["resnet18"].build(1).state_dict())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.pth", "out.pth", "out.safetensors"]

    start = ["--set", "epochs=1", "--set", "label_fraction=0.02"]
    code, out, err = call(capsys, "train", "supervised", "--init", record.key, *start)
    assert code == 0, err
    assert "BN · Supervised from MoCo BN / EMAN · s0" in out


def own_features(key: str, network: str, selection: str, images: Split) -> torch.Tensor:
    trained = Trained(key, Workspace.from_environment(), network, selection)
    return features.outputs(trained.backbone(), images, trained.splits.dataset, "float32")


def alone(*arguments: str, folder: Path) -> None:
    """A process of MLflow's, in another folder and with a store of its own."""
    settings = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'other.db'}", "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")} | settings
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_mlflow_serves_a_classifiers_probabilities(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "train", "fixmatch", "--scheme", "eman", "--profile", "smoke")[0] == 0
    [record] = Store(Workspace.from_environment()).records(TRAINING)
    model = tmp_path / "model"
    given = ["export", record.key, "--format", "mlflow", "--network", "teacher", "--out", str(model)]
    code, out, err = call(capsys, *given)
    assert code == 0, err
    assert "images to 10 probabilities, by the teacher after the last epoch" in out

    images = data.load("digits", Workspace.from_environment()).test.take(
        torch.arange(5)
    )  # another number of images than it was traced with
    (tmp_path / "input.json").write_text(json.dumps({"inputs": images.images.tolist()}))
    predict = ["-m", "mlflow", "models", "predict", "--env-manager", "local", "-m", str(model)]
    alone(*predict, "-i", "input.json", "-o", "output.json", folder=tmp_path)
    found_NK = torch.tensor(json.loads((tmp_path / "output.json").read_text())["predictions"])
    weights = checkpoint.load(Workspace.from_environment().run_folder(record.key) / "last.pt", record.key)
    outputs = []
    for network in ("student", "teacher"):
        features_ND = own_features(record.key, network, "last", images)
        classifier = (weights[network][f"classifier.{name}"] for name in ("weight", "bias"))
        outputs.append(torch.nn.functional.linear(features_ND, *classifier).softmax(1))
    torch.testing.assert_close(found_NK, outputs[1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found_NK, outputs[0], atol=1e-3)  # the student's

    code, _, err = call(capsys, *given)
    assert (code, err.count("\n")) == (2, 1)
    assert "exists, and a folder is never replaced" in err
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".db") == ["input.json", "model", "output.json"]


@pytest.mark.slow
def test_mlflow_serves_features_without_this_project(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "train", "moco", "--scheme", "eman", "--profile", "smoke")[0] == 0
    [record] = Store(Workspace.from_environment()).records(TRAINING)
    export = ["export", "--format", "mlflow", "--out"]
    code, out, err = call(capsys, *export, str(tmp_path / "model"), "--selection", "best", record.key)
    assert code == 0, err
    assert "images to 64 features, by the student after the best epoch" in out
    images = data.load("digits", Workspace.from_environment()).test.take(torch.arange(3))
    torch.save(images.images, tmp_path / "images.pt")
    script = (
        "import sys; sys.modules['eman'] = None; import mlflow.pyfunc, torch; "
        "model = mlflow.pyfunc.load_model('model'); images = torch.load('images.pt').numpy(); "
        "torch.save(torch.from_numpy(model.predict(images)), 'features.pt')"
    )
    alone("-c", script, folder=tmp_path)
    expected_ND = own_features(record.key, "student", "best", images)
    torch.testing.assert_close(torch.load(tmp_path / "features.pt"), expected_ND, rtol=1e-4, atol=1e-4)

    # An imported network has left its classifier behind.
    network = models.resnet18()
    network.conv1 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    torch.save(network.state_dict(), tmp_path / "c.pth")
    assert call(capsys, "import", str(tmp_path / "c.pth"), "--as", "torchvision", "--dataset", "digits")[0] == 0
    [imported] = [r.key for r in Store(Workspace.from_environment()).records(TRAINING) if r.key != record.key]
    assert "images to 512 features" in call(capsys, *export, str(tmp_path / "imported"), imported)[1]


def test_mistakes_are_one_line_and_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, path = official(tmp_path / "c.pth", "encoder_q.", "encoder_k.")
    torch.save({"state_dict": {"conv9.weight": torch.zeros(3, 3, 3, 3)}}, tmp_path / "other.pth")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    torch.save({"state_dict": Path("x")}, tmp_path / "code.pth")
    (tmp_path / "cut.pth").write_bytes(path.read_bytes()[:1000])
    for name, layout, message in (
        ("c.pth", "byol", "holds no names that begin with 'online_net.backbone.'"),
        ("c.pth", "mocco", "did you mean 'moco'"),
        ("other.pth", "torchvision", "holds a network that is none of ours"),
        ("empty.pth", "moco", "holds no state dict"),
        ("code.pth", "moco", "cannot be read as tensors alone"),
        ("cut.pth", "moco", "cannot be read as tensors alone"),
        ("absent.pth", "moco", "there is no file"),
    ):
        code, _, err = call(capsys, "import", str(tmp_path / name), "--as", layout)
        assert code == 2
        assert message in err
        assert err.count("\n") == 1
    assert call(capsys, "train", "moco", "--set", "epochs=1")[0] == 0
    [record] = Store(Workspace.from_environment()).records(TRAINING)
    code, _, err = call(capsys, "export", record.key, "--out", str(tmp_path / "x.pth"))
    assert code == 2
    assert "torchvision has no network 'small'" in err
    code, _, err = call(capsys, "export", record.key, "--format", "onnx", "--out", str(tmp_path / "x.pth"))
    assert "unknown format 'onnx'" in err
    with pytest.raises(UserError, match="did you mean 'moco'"):
        read(path, "moko")
