"""Linear evaluation and finetuning against torch.optim.SGD on stock modules, and scikit-learn."""

import io
import json
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from eman.evaluation import measure
from eman.evaluation.compute import finetune, linear
from eman.evaluation.features import Features, outputs, spread
from eman.evaluation.protocols import registry
from eman.evaluation.protocols.finetune import FinetuneSpec
from eman.evaluation.protocols.groups import eval_title, evaluate, group_title, together
from eman.evaluation.protocols.linear import LinearSpec
from eman.evaluation.protocols.protocol import Measured, Protocol, ProtocolSpec
from eman.evaluation.protocols.registry import PROTOCOLS
from eman.evaluation.protocols.sizes import EvalSizes
from eman.evaluation.protocols.spec import EvalSpec, check, make_eval, parse_eval_fields, settable
from eman.evaluation.trained import Trained, sizes_of, splits_of
from eman.platform import checkpoint
from eman.platform.errors import RunFailed, UserError
from eman.platform.workspace import Workspace
from eman.sweeps.profiles.imagenet import IMAGENET
from eman.sweeps.profiles.smoke import SMOKE
from eman.sweeps.tables.scope import Scope
from eman.trainers.backbones.registry import BACKBONES
from eman.trainers.data import catalog as data
from eman.trainers.data import known, label_sets, memory
from eman.trainers.data.order import epoch_order
from eman.trainers.data.splits import Split
from eman.trainers.loop import fit
from eman.trainers.spec.kinds import kind_of
from eman.trainers.views import transforms
from eman.trainers.views import views as augment
from eman.trainers.views.draws import Draws
from eman.trainers.views.options import ViewOptions


def problem(n: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (n,), generator=generator)
    return torch.randn(n, 6, generator=generator) + 2 * torch.nn.functional.one_hot(labels, 6), labels


def saved_bytes(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def of_features(features: Features) -> Trained:
    """A run whose features are these."""
    trained = Trained("x", Workspace.from_environment())
    trained.__dict__["features"] = features
    return trained


def test_training_is_torchs_sgd_for_every_label_set_and_rate() -> None:
    features, labels = problem()
    spec = LinearSpec(epochs=10, batch=32, label_sets=2)
    sets = torch.stack([label_sets.balanced(labels, 100, seed) for seed in range(2)])
    rates = (0.3, 0.05)
    weights, biases = linear.train(lambda index, epoch: features[index], 6, labels, sets, 4, spec, rates)
    for rate, weight, bias in zip(rates, weights, biases, strict=True):
        for number in range(2):
            layer = nn.Linear(6, 4)
            start = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(0)) * 0.01
            with torch.no_grad():
                layer.weight.copy_(start[0].T)
                layer.bias.zero_()
            optimizer = torch.optim.SGD(layer.parameters(), lr=rate, momentum=0.9)
            schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [6, 8], 0.1)
            x, y = features[sets[number]], labels[sets[number]]
            for epoch in range(10):
                for batch in epoch_order(100, 0, 0, epoch).split(32):
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(layer(x[batch]), y[batch]).backward()
                    optimizer.step()
                schedule.step()
            torch.testing.assert_close(weight[number], layer.weight.T, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(bias[number, 0], layer.bias, atol=1e-4, rtol=1e-4)


def test_a_long_training_comes_near_scikit_learns_optimum() -> None:
    features, labels = problem(1000)
    spec = LinearSpec(views="cached", lr=0.3, epochs=60, label_sets=1, label_fraction=0.5)
    first, rest = (features[:600], labels[:600]), (features[600:], labels[600:])
    [result] = linear.evaluate([spec], of_features(Features(*first, *rest, *rest)))
    assert isinstance(result, Measured)
    chosen = label_sets.label_set(labels[:600], 0.5, 0)
    optimum = LogisticRegression(C=1e4, max_iter=500).fit(features[chosen].numpy(), labels[chosen].numpy())
    theirs = 100 * optimum.score(features[600:].numpy(), labels[600:].numpy())
    metrics = result.metrics
    top1 = metrics["linear/50pct_top1"]
    assert top1 == pytest.approx(theirs, abs=2)
    assert top1 == metrics["linear/50pct_held_out_top1"] == metrics["linear/50pct_top1_set0"]


def test_a_label_sets_mean_is_reported_with_its_parts() -> None:
    features, labels = problem()
    spec = LinearSpec(views="cached", lr=0.5, label_sets=3, label_fraction=0.2)
    [result] = linear.evaluate([spec], of_features(Features(features, labels, *2 * (features, labels))))
    assert isinstance(result, Measured)
    parts = [result.metrics[f"linear/20pct_top1_set{n}"] for n in range(3)]
    assert result.metrics["linear/20pct_top1"] == pytest.approx(sum(parts) / 3)
    assert result.metrics["linear/20pct_top5"] == 100  # four classes
    assert len(set(parts)) > 1


def test_a_rate_that_diverges_leaves_the_others_alone() -> None:
    features, labels = problem()
    features = 1e17 * features  # the larger rate overflows float32
    found = of_features(Features(features, labels, *2 * (features, labels)))
    specs = [LinearSpec(views="cached", lr=lr, label_fraction=0.2) for lr in (1e6, 0.5)]
    bad, good = linear.evaluate(specs, found)
    assert isinstance(bad, RunFailed)
    assert "diverged" in str(bad)
    assert [good] == linear.evaluate(specs[1:], found)


def test_evaluations_that_differ_in_the_rate_alone_go_together() -> None:
    specs = [make_eval("linear", run, views="cached", lr=lr) for run in ("a", "b") for lr in (1.0, 2.0)]
    specs += [make_eval("linear", "a", views="cached", lr=1.0, label_fraction=0.5), make_eval("knn", "a")]
    groups = together(specs)
    assert [len(group) for group in groups] == [2, 2, 1, 1]
    assert [group_title(group) for group in groups[1:]] == [
        "linear · 10 % · 2 of lr",
        "linear · 50 % · lr 1",
        "kNN · k 20",
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A short MoCo run on digits."""
    spec = SMOKE.run("moco", "eman")
    found = Trained(spec.key, Workspace(str(tmp_path_factory.mktemp("run"))))
    outcome = fit(spec, found.workspace, folder=found.folder, monitor=measure.monitor)
    measure.final(outcome.training, found.folder, outcome.best_epoch)
    return found


def stock(run: Trained, network: str = "student") -> nn.Module:
    """Its backbone with PyTorch's own norms."""
    backbone = BACKBONES["small"].build(1)
    state = checkpoint.load(run.folder / "last.pt", run.run)[network]
    backbone.load_state_dict({k[9:]: v for k, v in state.items() if k.startswith("backbone.")})
    return backbone


def images(run: Trained, index: torch.Tensor, epoch: int) -> torch.Tensor:
    """Cropped and flipped images of an epoch, one at a time."""
    split, dataset = run.splits.train, run.splits.dataset
    views = []
    for place in index.tolist():
        draws = Draws(0, torch.tensor([epoch]), split.ids[[place]], 0)
        view = augment.weak(split.images[[place]].float() / 255, draws, ViewOptions(0.08))
        views.append(transforms.normalize(view, dataset.mean, dataset.std))
    return torch.cat(views)


def test_augmented_features_are_those_of_fresh_crops_and_leave_the_network_as_it_is(run: Trained) -> None:
    spec = make_eval("linear", run.run, lr=0.5, epochs=2, label_sets=2)
    section = LinearSpec(lr=0.5, epochs=2, label_sets=2)
    assert section.views == "augmented"
    assert spec.protocol == section
    features_of = linear.augmented(run, section, 0)
    index = torch.tensor([[3, 5, 900], [7, 3, 11]])
    backbone = stock(run).eval()
    for epoch in (0, 1):
        found = features_of(index, epoch)
        for row, expected in zip(found, index, strict=True):
            with torch.no_grad():
                torch.testing.assert_close(row, backbone(images(run, expected, epoch)), atol=1e-4, rtol=1e-4)
    assert not torch.equal(features_of(index, 0), features_of(index, 1))
    before = {name: value.clone() for name, value in run.backbone().state_dict().items()}
    [result] = linear.evaluate([section], run)
    assert isinstance(result, Measured)
    assert result.metrics["linear/10pct_top1"] > 10
    for name, value in run.backbone().state_dict().items():
        assert torch.equal(value, before[name])


def test_finetuning_is_torchs_sgd_with_two_rates_on_stock_modules(run: Trained) -> None:
    spec = FinetuneSpec(lr=0.01, head_lr=0.1, epochs=3, milestones=(0.7,), batch=32, devices=1)
    index = label_sets.label_set(run.splits.train.labels, 0.05, 0)
    network = finetune.train(run, index, spec)
    model = nn.Sequential(stock(run), finetune.classifier(64, 10, spec.head_init, 0))
    backbone, head = model
    optimizer = torch.optim.SGD(
        [{"params": backbone.parameters(), "lr": 0.01}, {"params": head.parameters(), "lr": 0.1}],
        momentum=0.9,
        weight_decay=1e-4,
    )
    for epoch in range(3):
        if epoch == 2:
            for group in optimizer.param_groups:
                group["lr"] /= 10
        for batch in epoch_order(len(index), 0, 0, epoch).split(32):
            loss = nn.functional.cross_entropy(
                model(images(run, index[batch], epoch)), run.splits.train.labels[index[batch]]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for ours, theirs in zip(network.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("samples", [64, 61, 3])
def test_finetuning_normalizes_by_device_and_follows_device_0(run: Trained, samples: int) -> None:
    """As four processes of stock modules under DDP; the last batch is filled up with the epoch's first samples."""
    spec = FinetuneSpec(lr=0.01, head_lr=0.1, epochs=1, milestones=(), batch=32, devices=4)
    index = torch.arange(samples)
    network = finetune.train(run, index, spec)
    replicas = [nn.Sequential(stock(run), finetune.classifier(64, 10, "uniform", 0)) for _ in range(4)]
    optimizers = [
        torch.optim.SGD(
            [{"params": replica[0].parameters(), "lr": 0.01}, {"params": replica[1].parameters(), "lr": 0.1}],
            momentum=0.9,
            weight_decay=1e-4,
        )
        for replica in replicas
    ]
    order = epoch_order(samples, 0, 0, 0)
    order = order.repeat(4)[: -(-samples // 4) * 4]
    for batch in order.split(32):
        for device, (replica, optimizer) in enumerate(zip(replicas, optimizers, strict=True)):
            mine = batch[device::4]
            optimizer.zero_grad()
            nn.functional.cross_entropy(replica(images(run, mine, 0)), run.splits.train.labels[mine]).backward()
        for same in zip(*(replica.parameters() for replica in replicas), strict=True):
            mean = torch.stack([parameter.grad for parameter in same]).mean(0)  # type: ignore[misc]
            for parameter in same:
                parameter.grad = mean.clone()
        for optimizer in optimizers:
            optimizer.step()
    expected = replicas[0].state_dict()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=1e-4, rtol=1e-3)


def test_a_new_classifier_starts_as_pytorchs_or_from_a_normal_distribution() -> None:
    uniform, normal = (finetune.classifier(400, 500, init, 0) for init in ("uniform", "normal"))
    torch.manual_seed(0)
    stock = nn.Linear(400, 500)
    for ours, theirs in zip(uniform.parameters(), stock.parameters(), strict=True):
        assert ours.abs().max() <= 0.05
        assert ours.std().item() == pytest.approx(theirs.std().item(), rel=0.1)
    assert normal.weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert not normal.bias.any()
    assert torch.equal(uniform.weight, finetune.classifier(400, 500, "uniform", 0).weight)
    assert not torch.equal(uniform.weight, finetune.classifier(400, 500, "uniform", 1).weight)


def test_finetuning_has_the_official_values_at_imagenet_and_refuses_uneven_devices() -> None:
    scope = Scope(profile=IMAGENET)
    section = scope.evaluation(IMAGENET.run("moco", "eman"), "finetune").protocol
    assert isinstance(section, FinetuneSpec)
    assert (section.batch // section.devices, section.head_init) == (32, "uniform")
    with pytest.raises(UserError, match="batch is 30, which 8 devices do not divide"):
        FinetuneSpec(batch=30)


def test_a_half_precision_run_is_finetuned_in_half_precision_with_scaled_gradients(tmp_path: Path) -> None:
    """Without the scale, small gradients would vanish in fp16."""
    spec = SMOKE.run("moco", "eman", overrides={"precision": "fp16", "epochs": 1})
    found = Trained(spec.key, Workspace(tmp_path))
    fit(spec, found.workspace, folder=found.folder)
    slopes: list[torch.Tensor] = []

    def see(module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(module, nn.Linear) and output.requires_grad:
            output.register_hook(slopes.append)

    hook = nn.modules.module.register_module_forward_hook(see)
    try:
        index = torch.arange(64)
        network = finetune.train(found, index, FinetuneSpec(lr=0.01, epochs=2, batch=32, devices=1))
    finally:
        hook.remove()
    assert {slope.dtype for slope in slopes} == {torch.float16}
    assert all(slope.abs().max() > 1 for slope in slopes)  # of a mean over 32 images, at most 1 / 32
    assert all(torch.isfinite(parameter).all() for parameter in network.parameters())


def test_finetuning_reports_every_rate_and_its_best_network_learns(run: Trained) -> None:
    fields = {"label_fraction": 1.0, "label_sets": 1, "epochs": 4, "devices": 1}
    specs = [make_eval("finetune", run.run, lr=lr, **fields) for lr in (1e-4, 1e-2)]
    slow, fast = evaluate(specs, run)
    assert isinstance(slow, Measured)
    assert isinstance(fast, Measured)
    assert 30 < slow.metrics["finetune/100pct_top1"] < fast.metrics["finetune/100pct_top1"]
    assert fast.metrics["finetune/100pct_top1"] <= fast.metrics["finetune/100pct_top5"] <= 100


def test_teacher_and_best_epoch_can_be_asked_for(run: Trained) -> None:
    teacher = replace(run, network="teacher")
    with torch.no_grad():
        x = transforms.normalize(
            run.splits.train.images[:9].float() / 255, run.splits.dataset.mean, run.splits.dataset.std
        )
        torch.testing.assert_close(teacher.features.train_ND[:9], stock(run, "teacher").eval()(x), atol=1e-4, rtol=1e-4)
    assert not torch.equal(teacher.features.train_ND, run.features.train_ND)
    assert (run.folder / "best.pt").exists()
    spec = SMOKE.run("fixmatch", "default")
    fit(spec, run.workspace, folder=run.workspace.run_folder(spec.key), monitor=measure.monitor)
    with pytest.raises(UserError, match="has no teacher network of its own"):
        _ = Trained(spec.key, run.workspace, "teacher").features


def test_a_run_is_evaluated_on_other_data_with_its_own_pixel_scale(
    run: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = data.load("digits", Workspace.from_environment())
    inverted = Split(255 - digits.train.images, digits.train.labels, digits.train.ids)
    other = replace(digits, name="inverted", train=inverted, mean=(0.9,), std=(0.1,))
    colour = replace(other, train=replace(inverted, images=inverted.images.expand(-1, 3, -1, -1)))
    for name, dataset in (("inverted", other), ("colour", replace(colour, name="colour"))):
        monkeypatch.setitem(memory.LOADERS, name, lambda folder, download, dataset=dataset: dataset)
        for names in (known.IN_MEMORY, known.KNOWN):
            monkeypatch.setitem(names, name, known.Sizes(1343, 454, 10, pixels=16))
    found = replace(run, dataset="inverted")
    assert len(found.features.train_ND) == len(digits.train) - run.spec.data.held_out
    index = found.splits.train.ids[:5]
    with torch.no_grad():
        x = transforms.normalize(inverted.images[index].float() / 255, digits.mean, digits.std)
        torch.testing.assert_close(found.features.train_ND[:5], stock(run).eval()(x), atol=1e-4, rtol=1e-4)
    assert run.features.train_ND.shape[1] == found.features.train_ND.shape[1]
    again = replace(run, dataset="inverted")
    assert torch.equal(again.features.test_ND, found.features.test_ND)
    assert "on inverted" in eval_title(make_eval("knn", run.run, dataset="inverted"))
    with pytest.raises(UserError, match=r"trained on images of 1 channels \(digits\), and those of colour have 3"):
        _ = replace(run, dataset="colour").features


def test_a_collapsed_run_is_reported_as_collapsed(run: Trained, tmp_path: Path) -> None:
    saved = checkpoint.load(run.folder / "last.pt", run.run)
    for name, value, message in (
        ("flat", 0.0, "differ by only"),
        ("nan", float("nan"), "finite"),
    ):
        student = {k: torch.full_like(v, value) if k.endswith("bn2.weight") else v for k, v in saved["student"].items()}
        student = {k: torch.zeros_like(v) if "downsample" in k and "weight" in k else v for k, v in student.items()}
        flat = Trained(run.run, Workspace(str(tmp_path / name)))
        checkpoint.save(flat.folder / "last.pt", saved | {"student": student}, run.run)
        for spec in (make_eval("knn", run.run), make_eval("finetune", run.run, label_sets=1)):
            with pytest.raises(RunFailed, match=f"collapsed.*{message}"):
                evaluate([spec], flat)
    assert spread(run.features.train_ND) > 0.1


def test_another_backbones_checkpoint_is_refused(run: Trained, tmp_path: Path) -> None:
    saved = checkpoint.load(run.folder / "last.pt", run.run)
    saved["spec"]["backbone"] = "small-2x"
    other = Trained(run.run, Workspace(str(tmp_path)))
    checkpoint.save(other.folder / "last.pt", saved, run.run)
    with pytest.raises(UserError, match="does not hold a backbone 'small-2x' as built here"):
        other.backbone()


def test_too_few_labels_are_named(run: Trained) -> None:
    for protocol in ("linear", "finetune"):
        with pytest.raises(UserError, match="1 labelled samples leave some of the 10 classes with none"):
            evaluate([make_eval(protocol, run.run, label_fraction=0.001)], run)
    with pytest.raises(UserError, match="k is 5000, and there are"):
        evaluate([make_eval("knn", run.run, k=5000)], run)


def test_measuring_a_training_does_not_change_it() -> None:
    spec = SMOKE.run("fixmatch", "eman")
    workspace = Workspace.from_environment()
    folder = workspace.run_folder(spec.key)
    outcome = fit(spec, workspace, folder=folder, monitor=measure.monitor)
    training = outcome.training
    training.student.train()
    before = saved_bytes(training.state())
    modes = [module.training for module in training.student.modules()]
    measure.monitor(training)
    saved = checkpoint.load(folder / "last.pt", spec.key)
    other = {name: value + 1 for name, value in saved["student"].items()}
    checkpoint.save(folder / "best.pt", saved | {"student": other}, spec.key)
    measured = measure.final(training, folder, best_epoch=1)
    assert measured["test/top1"] != measured["test/top1_best"]
    assert saved_bytes(training.state()) == before
    assert [module.training for module in training.student.modules()] == modes


def test_half_precision_runs_are_evaluated_in_half_precision() -> None:
    layer = nn.Linear(2, 1, bias=False)
    seen = []
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    images = torch.zeros(3, 1, 1, 2, dtype=torch.uint8)
    split = Split(images, torch.zeros(3, dtype=torch.int64), torch.arange(3))
    dataset = replace(data.load("digits", Workspace.from_environment()), mean=(0.0,), std=(1.0,))
    network = nn.Sequential(nn.Flatten(), layer)
    for precision in ("fp16", "bf16", "float32"):
        assert outputs(network, split, dataset, precision).dtype == torch.float32
    assert seen == [torch.float16, torch.bfloat16, torch.float32]


@pytest.mark.parametrize(
    ("protocol", "fields", "message"),
    [
        ("knn", {"k": 5000}, "k is 5000, and there are 1143 features"),
        ("retrieval", {"top": 1144}, "top is 1144, and the database has 1143 images"),
        ("lowshot", {"shots": 1000}, "shots is 1000, and the smallest class of digits has"),
        ("linear", {"label_fraction": 0.001}, "label_fraction is 0.001, and 1 labelled samples leave some of the 10"),
        ("finetune", {"label_fraction": 0.001}, "give at least 0.0087"),
    ],
)
def test_what_the_data_cannot_serve_is_refused_before_anything_runs(
    protocol: str, fields: dict[str, float], message: str
) -> None:
    run = SMOKE.run("moco", "eman")
    spec = make_eval(protocol, run.key, **fields)
    with pytest.raises(UserError, match=message):
        check(spec, sizes_of(splits_of(run, None, Workspace.from_environment())))


def test_sets_with_several_classes_an_image_need_a_protocol_that_knows_them() -> None:
    sizes = EvalSizes("voc2007", 100, 20, (10,) * 20, multi_label=True)
    check(make_eval("lowshot", "x"), sizes)
    with pytest.raises(UserError, match="protocol knn needs one class per image"):
        check(make_eval("knn", "x"), sizes)


BAD = {int: ["x", "0", "-1", "1.5", "99999999999999", "nan", ""], float: ["x", "-1", "nan", "inf", "1e300", ""]}


def bad_pairs() -> list[tuple[str, str]]:
    """Every numeric field of every protocol with every kind of bad value."""
    pairs = []
    for name in PROTOCOLS:
        for field, info in settable(name).items():
            kind = kind_of(info)
            bad = BAD.get(kind.base, []) if kind is not None else []
            values = [value for value in bad if not (field == "seed" and value == "0")]
            pairs += [(name, f"{field}={value}") for value in values]
            pairs += [(name, f"{field}={value}") for value in ("1,0.5", "0.5,nan") if field == "milestones"]
    return pairs


@pytest.mark.parametrize(("protocol", "pair"), bad_pairs())
def test_bad_values_of_every_field_are_one_line(protocol: str, pair: str) -> None:
    with pytest.raises(UserError) as raised:
        make_eval(protocol, "x", **parse_eval_fields(protocol, [pair]))
    assert pair.partition("=")[0] in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("protocol", "pair", "message"),
    [
        ("knn", "run=x", "run cannot be set by hand"),
        ("knn", "protocol=linear", "give --protocol NAME"),
        ("knn", "shots=1", "unknown field of knn 'shots'"),
        ("knn", "k", "give FIELD=VALUE"),
        ("linear", "label_index=../../x", "label_index"),
        ("linear", "milestones=0.8,0.6", "give increasing shares"),
    ],
)
def test_fields_that_cannot_be_set_are_one_line(protocol: str, pair: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_eval(protocol, "x", **parse_eval_fields(protocol, [pair]))


def test_an_evaluations_key_holds_what_decides_its_result() -> None:
    keys = {make_eval("linear", run, lr=lr).key for run in ("a", "b") for lr in (1.0, 2.0)}
    assert len(keys) == 4
    spec = make_eval("linear", "a", views="cached", lr=1)
    assert EvalSpec.from_flat(json.loads(json.dumps(spec.flat()))) == spec
    assert "crop_min" not in spec.flat()
    with pytest.raises(UserError, match="crop_min has no effect with views cached"):
        make_eval("linear", "a", views="cached", crop_min=0.5)


def test_a_protocol_of_ones_own_needs_one_call_and_no_taken_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class MineSpec(ProtocolSpec):
        name: ClassVar[str] = "mine"
        depth: int = 3

    class ClashSpec(ProtocolSpec):
        name: ClassVar[str] = "clash"
        seed: int = 3

    monkeypatch.setattr(registry, "PROTOCOLS", copy(PROTOCOLS))
    mine = Protocol(title="Mine", spec=MineSpec, shown=("depth",), compute="mine")
    registry.register_protocol(mine)
    spec = make_eval("mine", "x", depth=4)
    assert (eval_title(spec), spec.flat()["depth"]) == ("Mine · depth 4", 4)
    with pytest.raises(UserError, match="already"):
        registry.register_protocol(mine)
    with pytest.raises(UserError, match="'seed', which every evaluation has"):
        registry.register_protocol(Protocol(title="Clash", spec=ClashSpec, shown=(), compute="clash"))
