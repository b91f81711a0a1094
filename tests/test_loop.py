"""The loop: the same key gives the same result, whatever interrupts it."""

import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.modules.module import register_module_forward_hook

from eman.platform import checkpoint
from eman.platform.errors import RunFailed, UserError
from eman.platform.storage import Place
from eman.platform.workspace import Settings, Workspace
from eman.sweeps.profiles.smoke import SMOKE
from eman.sweeps.work import epoch_images
from eman.trainers.loop import feature_std, fit
from eman.trainers.methods.registry import METHODS
from eman.trainers.norm.schemes import SCHEMES
from eman.trainers.spec.run import RunSpec
from eman.trainers.training import Training


def tensors(state: Any, prefix: str = "") -> dict[str, Any]:
    """Every leaf of a nested state by path."""
    if isinstance(state, dict):
        return {k: v for name, value in state.items() for k, v in tensors(value, f"{prefix}/{name}").items()}
    if isinstance(state, list | tuple):
        return {k: v for i, value in enumerate(state) for k, v in tensors(value, f"{prefix}/{i}").items()}
    return {prefix: state}


def assert_same(a: Training, b: Training) -> None:
    assert_same_values(a.state(), b.state())


def assert_same_values(a: Any, b: Any) -> None:
    left, right = tensors(a), tensors(b)
    assert left.keys() == right.keys()
    for name, value in left.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, right[name]), name
        else:
            assert value == right[name], name


@pytest.mark.parametrize("method", METHODS)
def test_the_same_key_gives_the_same_result_twice(method: str) -> None:
    spec = SMOKE.run(method, "eman")
    first, second = fit(spec, Workspace.from_environment()), fit(spec, Workspace.from_environment())
    assert_same(first.training, second.training)
    assert first.metrics["train/loss"] == second.metrics["train/loss"]


@pytest.mark.parametrize(
    ("method", "scheme", "fields"),
    [
        ("fixmatch", "eman", {}),
        ("fixmatch", "default", {"average_student": True, "nesterov": True, "crop_padding": 0.125, "cutout": 0.5}),
        ("moco", "shufflebn", {"symmetric": True}),
        ("byol", "teacher-pn-0.9", {}),
        ("moco", "momentum2", {}),
        ("supervised", "default", {}),
    ],
)
def test_an_interrupted_run_equals_an_uninterrupted_one(
    method: str, scheme: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    spec = SMOKE.run(method, scheme, 0, fields)
    whole = fit(spec, Workspace.from_environment(), monitor=lambda t: {"x": float(t.step)})
    epochs = []
    middle = whole.training.steps_per_epoch + whole.training.steps_per_epoch // 2
    fit(
        spec,
        Workspace.from_environment(),
        folder=Place(str(tmp_path)),
        monitor=lambda t: {"x": float(t.step)},
        stop_after=middle,
    )
    resumed = fit(
        spec,
        Workspace.from_environment(),
        folder=Place(str(tmp_path)),
        monitor=lambda t: {"x": float(t.step)},
        on_epoch=lambda number, metrics: epochs.append((number, metrics["train/loss"])),
    )
    assert resumed.resumed_from == middle
    assert_same(whole.training, resumed.training)
    assert epochs == [(2, whole.metrics["train/loss"])]
    assert (resumed.best, resumed.best_epoch) == (whole.best, whole.best_epoch)


@pytest.mark.parametrize("method", ["fixmatch", "moco", "byol"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_trains(method: str, scheme: str) -> None:
    if scheme == "default" and method != "fixmatch":
        pytest.skip("another scheme's name in this method")
    training = Training.fresh(SMOKE.run(method, scheme), Workspace.from_environment())
    before = [p.detach().clone() for p in training.student.parameters()]
    for _ in range(3):
        loss, _, output = training.train_step()
        assert torch.isfinite(loss)
        assert torch.isfinite(output).all()
    assert any(not torch.equal(a, b) for a, b in zip(before, training.student.parameters(), strict=True))
    if training.teacher is not None and training.teacher.network is not None:
        moved = [
            torch.equal(a, b)
            for a, b in zip(training.followed.parameters(), training.teacher.parameters(), strict=True)
        ]
        assert not all(moved)


def test_moco_moves_its_teacher_between_the_passes_and_the_others_after_the_step() -> None:
    for method, scheme in (("moco", "eman"), ("byol", "eman")):
        spec = SMOKE.run(method, scheme).replace(momentum=0.0, statistics_passes=0)
        training = Training.fresh(spec, Workspace.from_environment())
        before = training.followed[0].stem[0].weight.detach().clone()
        training.train_step()
        assert training.teacher is not None
        teacher = dict(training.teacher.named_parameters())["network.backbone.stem.0.weight"]
        # With momentum 0 the teacher is the student of the moment at which it moved. BYOL's m is 0 at its first step.
        expected = before if method == "moco" else training.followed[0].stem[0].weight
        assert torch.equal(teacher, expected)
        tracked = training.teacher.network.backbone.stem[1].running_mean  # type: ignore[union-attr]
        assert torch.equal(tracked, training.followed[0].stem[1].running_mean)  # type: ignore[arg-type]


def test_an_average_of_the_student_is_kept_for_evaluation_alone() -> None:
    """Parameters by Eq. (1), statistics copied, as in USB; training does not see it."""
    fields = {"momentum": 0.9, "student_proxy_momentum": 0.999}
    plain = Training.fresh(SMOKE.run("fixmatch", "default", 0, fields), Workspace.from_environment())
    spec = SMOKE.run("fixmatch", "default", 0, {**fields, "average_student": True})
    training = Training.fresh(spec, Workspace.from_environment())
    average = training.teacher_network
    assert average is not None
    expected = [p.detach().double() for p in training.student.parameters()]
    for _ in range(3):
        plain.train_step()
        training.train_step()
        expected = [
            0.9 * old + 0.1 * new.double() for old, new in zip(expected, training.student.parameters(), strict=True)
        ]
    for mine, value in zip(average.parameters(), expected, strict=True):
        torch.testing.assert_close(mine.double(), value, rtol=1e-5, atol=1e-7)
    for mine, value in zip(average.buffers(), training.student.buffers(), strict=True):
        assert torch.equal(mine, value)
    assert_same_values(plain.student.state_dict(), training.student.state_dict())
    assert_same_values(training.weights()["teacher"], average.state_dict())
    assert plain.teacher_network is None
    assert (plain.spec.has_teacher_network, spec.has_teacher_network) == (False, True)
    assert plain.spec == SMOKE.run("fixmatch", "default", 0, {"student_proxy_momentum": 0.999})  # m has no effect there
    assert spec.key != plain.spec.key
    eman = SMOKE.run("fixmatch", "eman")
    assert eman.replace(average_student=True) == eman


def test_statistics_can_be_set_before_the_first_step() -> None:
    training = Training.fresh(SMOKE.run("moco", "eman").replace(statistics_passes=5), Workspace.from_environment())
    fresh = Training.fresh(SMOKE.run("moco", "eman").replace(statistics_passes=0), Workspace.from_environment())
    assert (fresh.student[0].stem[1].running_mean == 0).all()
    assert (training.student[0].stem[1].running_mean != 0).all()
    assert training.student[0].stem[1].momentum == pytest.approx(0.1)
    assert training.teacher is not None
    assert training.teacher.network is not None
    assert torch.equal(training.teacher.network[0].stem[1].running_mean, training.student[0].stem[1].running_mean)


def test_a_loss_that_is_not_finite_ends_the_run_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    step = Training.train_step

    def broken(self: Training) -> Any:
        loss, measures, output = step(self)
        return loss * float("nan"), measures, output

    monkeypatch.setattr(Training, "train_step", broken)
    with pytest.raises(RunFailed, match="collapsed at epoch 1: the loss is not finite"):
        fit(SMOKE.run("moco", "eman"), Workspace.from_environment())


def collapsing(**fields: Any) -> RunSpec:
    """BYOL with group norm, whose predictions become alike within an epoch."""
    return SMOKE.run("byol", "gn", overrides={"collapse_bound": 0.004, "collapse_patience": 2, **fields})


def test_a_collapsed_run_ends_early_at_the_same_epoch_after_an_interruption(tmp_path: Path) -> None:
    spec, workspace = collapsing(epochs=4), Workspace.from_environment()
    for folder in (None, Place(str(tmp_path))):
        epochs = list[int]()
        if folder is not None:
            half = Training.fresh(spec, workspace).steps_per_epoch * 3 // 2
            fit(spec, workspace, folder=folder, stop_after=half)
        with pytest.raises(RunFailed, match=r"collapsed at epoch 2: .* below 0.004 for 2 epochs"):
            fit(spec, workspace, folder=folder, on_epoch=lambda number, _, seen=epochs: seen.append(number))
        assert epochs[-1] == 2


def test_epochs_of_the_warm_up_do_not_count_as_collapsed() -> None:
    with pytest.raises(RunFailed, match="at epoch 2"):
        fit(collapsing(collapse_patience=1, warmup_epochs=1.0), Workspace.from_environment())


def test_the_rule_of_collapse_changes_no_other_run() -> None:
    strict, never = (SMOKE.run("moco", "eman", overrides={"collapse_bound": bound}) for bound in (0.004, 0.0))
    assert strict.key == never.key
    states = [fit(spec, Workspace.from_environment()).training.student.state_dict() for spec in (strict, never)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_bf16_and_float32_are_different_runs_that_agree_roughly() -> None:
    losses = {}
    for precision in ("float32", "bf16"):
        spec = SMOKE.run("moco", "eman").replace(precision=precision)
        losses[spec.key] = float(Training.fresh(spec, Workspace.from_environment()).train_step()[0])
    assert len(losses) == 2
    a, b = losses.values()
    assert a == pytest.approx(b, rel=0.05)


def test_labelled_images_are_not_among_the_unlabelled() -> None:
    training = Training.fresh(SMOKE.run("fixmatch", "eman"), Workspace.from_environment())
    labelled, unlabelled = (
        set(training.batches.streams[name].split.ids.tolist()) for name in ("labelled", "unlabelled")
    )
    assert not labelled & unlabelled
    assert len(labelled | unlabelled) == len(training.train)


def test_feature_std_sees_a_collapse() -> None:
    assert feature_std(torch.ones(8, 4)) == 0
    assert feature_std(torch.randn(512, 64)) == pytest.approx(1, abs=0.05)
    assert feature_std(torch.ones(8, 4) + 1e-5 * torch.randn(8, 4)) == pytest.approx(1e-5, rel=0.5)


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = SMOKE.run("moco", "eman")
    whole = fit(spec, Workspace.from_environment())
    fit(spec, Workspace.from_environment(), folder=Place(str(tmp_path)), stop_after=5)
    fit(spec, Workspace.from_environment(), folder=Place(str(tmp_path)), stop_after=9)
    newest = max(tmp_path.glob("resume-*.pt"))
    newest.write_bytes(newest.read_bytes()[:1000])
    resumed = fit(spec, Workspace.from_environment(), folder=Place(str(tmp_path)))
    assert resumed.resumed_from == 5
    assert "is damaged" in caplog.text
    assert_same(whole.training, resumed.training)


@pytest.mark.parametrize("kind", ["foreign", "garbage"])
def test_a_checkpoint_that_cannot_be_used_is_set_aside(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec, workspace = SMOKE.run("moco", "eman"), Workspace.from_environment()
    if kind == "foreign":
        fit(spec.replace(seed=1), workspace, folder=Place(str(tmp_path)), stop_after=3)
    else:
        (tmp_path / "resume-000000003.pt").write_bytes(b"no checkpoint at all")
    content = (tmp_path / "resume-000000003.pt").read_bytes()
    outcome = fit(spec, workspace, folder=Place(str(tmp_path)), stop_after=4)
    assert outcome.resumed_from == 0
    assert len(caplog.records) == 1
    assert content in [path.read_bytes() for path in tmp_path.iterdir()]  # nothing is lost
    assert fit(spec, workspace, folder=Place(str(tmp_path)), stop_after=5).resumed_from == 4


def test_a_resumed_run_starts_without_a_pass_through_its_networks(tmp_path: Path) -> None:
    spec, workspace = SMOKE.run("moco", "eman").replace(statistics_passes=3), Workspace.from_environment()
    fit(spec, workspace, folder=Place(str(tmp_path)), stop_after=2)
    forwards: list[str] = []
    state = checkpoint.load(Place(str(tmp_path / "resume-000000002.pt")), spec.key)
    with register_module_forward_hook(lambda module, *_: forwards.append(type(module).__name__)):
        Training.resumed(spec, workspace, state)
        assert not forwards
        Training.fresh(spec, workspace)
    assert forwards.count("OneForward") == 3


def test_a_disk_that_stays_full_is_named(tmp_path: Path) -> None:
    spec, workspace = (
        SMOKE.run("moco", "eman"),
        Workspace(str(tmp_path / "home"), settings=Settings(storage_patience=0)),
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(UserError, match=r"the disk is full: .*last\.pt"):
            fit(spec.replace(epochs=1), workspace, folder=Place(str(tmp_path)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_small_run_imports_neither_the_compiler_nor_torchvision(tmp_path: Path) -> None:
    """Each of them takes a worker seconds to import."""
    spec = SMOKE.run("fixmatch", "eman", overrides={"statistics_passes": 1})
    fit(spec, Workspace.from_environment(), stop_after=1)  # Numba compiles for the first time, which imports more
    code = f"""
import sys
from eman.platform.workspace import Workspace
from eman.trainers.loop import fit
from eman.trainers.spec.run import RunSpec
fit(RunSpec.from_flat({spec.flat()}), Workspace(), stop_after=1)
slow = ("torch._dynamo", "torch._inductor", "torchvision", "timm", "ray", "mlflow")
print(*(name for name in slow if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.split() == []


def test_a_full_disk_costs_a_checkpoint_and_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The kernel refuses files of more than 8 KB, as it refuses any on a full disk."""
    spec = SMOKE.run("moco", "eman")
    whole = fit(spec, Workspace.from_environment())
    monkeypatch.setenv("EMAN_CHECKPOINT_SECONDS", "0")
    monkeypatch.setenv("EMAN_STORAGE_PATIENCE", "60")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))

    def later(step: int, _steps: int) -> None:
        if step == 15:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    try:
        outcome = fit(spec, Workspace.from_environment(), folder=Place(str(tmp_path)), on_step=later)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "no checkpoint of" in caplog.text
    assert_same(whole.training, outcome.training)
    assert checkpoint.load(Place(str(tmp_path / "last.pt")), spec.key)["epoch"] == spec.optim.epochs


def test_a_supervised_runs_speed_counts_the_images_that_it_saw() -> None:
    """Which are its labelled batches; the plan counts the same."""
    spec = SMOKE.run("supervised", "default", overrides={"epochs": 2, "label_fraction": 1.0})
    ends: list[float] = []
    seen: list[float] = []

    def on_epoch(_number: int, metrics: dict[str, float]) -> None:
        ends.append(time.monotonic())
        seen.append(metrics["train/images_per_second"])

    outcome = fit(spec, Workspace.from_environment(), on_epoch=on_epoch, on_step=lambda _step, _steps: time.sleep(0.01))
    images = outcome.training.steps_per_epoch * 16
    assert spec.flat()["labelled_batch"] == 16
    assert seen[1] * (ends[1] - ends[0]) == pytest.approx(images, rel=0.1)
    assert 0 <= epoch_images(spec) - images < 16


def test_a_run_in_half_precision_learns_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    spec = SMOKE.run("moco", "eman", overrides={"precision": "fp16", "epochs": 1})
    whole = fit(spec, Workspace.from_environment())
    fit(spec, Workspace.from_environment(), folder=Place(str(tmp_path)), stop_after=9)
    resumed = fit(spec, Workspace.from_environment(), folder=Place(str(tmp_path)))
    assert resumed.resumed_from == 9
    assert_same(whole.training, resumed.training)
    assert whole.training.state()["scaler"]["_growth_tracker"] > 0


def test_a_run_that_must_leave_saves_and_repeats_no_step(tmp_path: Path) -> None:
    spec, workspace = SMOKE.run("moco", "eman"), Workspace(settings=Settings(checkpoint_seconds=1e6))
    whole = fit(spec, workspace)
    left = fit(
        spec, workspace, folder=Place(str(tmp_path)), leave=lambda: True, on_step=lambda step, steps: time.sleep(0.2)
    )
    assert not left.finished
    assert 0 < left.training.step < left.training.steps
    resumed = fit(spec, workspace, folder=Place(str(tmp_path)), leave=lambda: False)
    assert resumed.finished
    assert resumed.resumed_from == left.training.step
    assert_same(resumed.training, whole.training)
