"""Networks from elsewhere and for elsewhere, with files built in the official layouts."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torchvision import models

from eman.cli import main
from eman.evaluation.trained import Trained
from eman.platform.errors import UserError
from eman.platform.home import run_folder
from eman.platform.tracking import TRAINING, Store
from eman.sweeps.exchange import read
from eman.trainers.backbones import BACKBONES


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
    assert "moco · BN / EMAN · seed 0 · imported" in out
    assert "module.queue left" in out
    assert "module.encoder_q.conv1.weight -> student conv1.weight" in out
    [record] = Store().records(TRAINING)
    assert record.status == "done"
    trained = Trained(record.key, run_folder(record.key))
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
    assert len(Store().records(TRAINING)) == 1

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
    assert "supervised · default / default · from moco BN / EMAN · seed 0" in out


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
    [record] = Store().records(TRAINING)
    code, _, err = call(capsys, "export", record.key, "--out", str(tmp_path / "x.pth"))
    assert code == 2
    assert "torchvision has no network 'small'" in err
    code, _, err = call(capsys, "export", record.key, "--format", "onnx", "--out", str(tmp_path / "x.pth"))
    assert "unknown format 'onnx'" in err
    with pytest.raises(UserError, match="did you mean 'moco'"):
        read(path, "moko")
