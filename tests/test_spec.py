"""Specifications of runs: fields, keys, labels, and every way to get them wrong."""

import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from eman.evaluation.protocols.linear import LinearSpec
from eman.platform.errors import UserError
from eman.sweeps.profiles.imagenet import IMAGENET
from eman.sweeps.profiles.registry import PROFILES
from eman.sweeps.profiles.smoke import SMOKE
from eman.trainers.methods.method import Method
from eman.trainers.methods.registry import METHODS, register_method
from eman.trainers.norm.schemes import SCHEMES
from eman.trainers.spec.build import make_spec
from eman.trainers.spec.fields import fields_of, find_field, parse_fields
from eman.trainers.spec.labels import run_title, run_titles, scheme_label, scheme_of
from eman.trainers.spec.method import TeacherSection, UnlabelledSection
from eman.trainers.spec.run import RunSpec
from eman.trainers.spec.sections import ExecutionSpec

FIELDS = {"devices": 4, "batch": 64, "queue": 256}


def spec(scheme: str = "eman", **fields: object) -> RunSpec:
    return make_spec("moco", scheme, {**FIELDS, **fields})


# Keys


def test_key_is_stable_and_moves_with_every_field() -> None:
    assert spec().key == spec().key
    assert len({spec().key, spec(seed=1).key, spec(lr=0.5).key, spec(devices=2).key, spec(momentum=0.9).key}) == 5


@pytest.mark.parametrize(
    ("method", "key"),
    [("fixmatch", "16c0b98737ea5933"), ("moco", "59438025499cb38f"), ("byol", "4762e7002c8df75d")],
)
def test_keys_of_runs_that_people_have_stay(method: str, key: str) -> None:
    """A new field that moves them would have every finished run trained again. TRAINING_VERSION moves them on purpose:
    3 since RandAugment, blur and crops follow Pillow and torchvision to the letter."""
    assert SMOKE.run(method, "eman").key == key


EXECUTED = {"channels_last": False, "compile": True, "accumulate": 2, "cuda_graph": False, "nondeterministic": True}


def test_how_a_run_is_computed_is_no_part_of_its_key() -> None:
    plain = spec()
    others = {"recompute": True, "collapse_bound": 0.5, "collapse_patience": 2}
    assert {**EXECUTED, **others}.keys() == set(ExecutionSpec.model_fields)
    for name, value in {**EXECUTED, **others}.items():
        changed = plain.replace(**{name: value})
        assert changed.key == plain.key
        assert changed.flat()[name] == value
        assert RunSpec.from_flat(changed.flat()) == changed
    assert plain.replace(init=spec(seed=1, **EXECUTED)).key == plain.replace(init=spec(seed=1)).key
    assert plain.replace(init=spec(seed=1, **EXECUTED)).key != plain.replace(init=spec(seed=2, **EXECUTED)).key
    assert plain.replace(precision="fp16").key != plain.key


@pytest.mark.parametrize(
    ("name", "same", "other"), [("lars_exclude", "vectors", "official"), ("lars_rate", "outside", "inside")]
)
def test_a_choice_of_lars_counts_where_it_differs(name: str, same: str, other: str) -> None:
    plain = spec(optimizer="lars")
    assert spec(optimizer="lars", **{name: same}).key == plain.key
    assert spec(optimizer="lars", **{name: other}).key != plain.key


def test_fields_without_effect_are_no_part_of_the_key() -> None:
    listed = make_spec("fixmatch", "eman", {"label_index": "1percent"})
    assert listed.replace(label_fraction=0.5, label_set=3, label_sampling="balanced") == listed
    every = make_spec("fixmatch", "eman", {"label_fraction": 1.0})
    assert every.replace(label_sampling="balanced") == every
    assert every.replace(label_fraction=0.5, label_sampling="balanced") != every.replace(label_fraction=0.5)
    assert LinearSpec(label_fraction=1.0, label_sampling="balanced") == LinearSpec(label_fraction=1.0)
    moved = make_spec("fixmatch", "eman", {"crop_padding": 0.125})
    assert moved.replace(crop_min=0.5) == moved
    joint = make_spec("fixmatch", "default", {})
    assert joint.replace(momentum=0.5) == joint
    with pytest.raises(UserError, match="momentum is 2"):
        joint.replace(momentum=2.0)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_holds_the_fields_of_its_method_alone(method: str) -> None:
    run = make_spec(method, "default", {})
    others = {name for entry in METHODS.values() for name in entry.section.model_fields}
    assert not (others - set(METHODS[method].section.model_fields)) & run.flat().keys()
    assert RunSpec.from_flat(run.flat()) == run
    assert run.method.images_per_step == run.method.batches()[METHODS[method].streams[-1]]


def test_the_runs_before_a_run_come_first() -> None:
    first = spec()
    second = spec(seed=1).replace(init=first)
    assert second.lineage == (first, second)
    assert RunSpec.from_flat(second.flat()) == second


def test_a_folder_is_named_by_its_content_in_a_key(tmp_path: Path) -> None:
    keys = set()
    for place, folder in enumerate(("first", "second", "third")):
        for split in ("train", "val"):
            for name in ("cat", "dog"):
                image = tmp_path / folder / "pets" / split / name / "1.png"
                image.parent.mkdir(parents=True)
                image.write_bytes(bytes(10 + place // 2))
        run = spec(dataset=str(tmp_path / folder / "pets"))
        assert run.data.dataset.startswith(str(tmp_path / folder / "pets@"))
        assert RunSpec.from_flat(run.flat()) == run
        keys.add(run.key)
    assert len(keys) == 2  # the third has other images


# Labels


@pytest.mark.parametrize("name", SCHEMES)
def test_a_schemes_title_is_its_runs_label(name: str) -> None:
    run = make_spec("fixmatch", name, {})
    assert scheme_label(run) == SCHEMES[name].title
    assert scheme_of(run) is SCHEMES[name]


@pytest.mark.parametrize(
    ("scheme", "overrides", "label"),
    [
        ("bn", {"student_norm": "syncbn", "teacher_norm": "eman"}, "SyncBN / EMAN"),
        ("bn", {"teacher_norm": "eman"}, "BN / EMAN"),
        ("eman-m0.9", {"teacher_norm": "bn"}, "BN / BN"),
        ("eman", {"student_norm": "syncbn", "eman_momentum": 0.9}, "SyncBN / EMAN (m=0.9)"),
        ("eman", {"eman_momentum": 0.99999999}, "BN / EMAN (m=0.99999999)"),
        ("syncbn", {"teacher_norm": "bn"}, "SyncBN / BN"),
        ("bn", {"student_proxy_momentum": 0.99}, "BN / BN (student α=0.99)"),
        ("bn", {"teacher_norm": "teacher-pn"}, "BN / teacher PN (α=0.9)"),
        ("student-pn-0.9", {"student_norm": "syncbn"}, "SyncBN / student PN (α=0.9)"),
        ("eman", {"device_statistics": "mean"}, "BN / EMAN (mean of devices)"),
        ("gn", {"student_norm": "ln", "teacher_norm": "ln"}, "LN / LN"),
    ],
)
def test_a_label_tells_what_an_override_made(scheme: str, overrides: dict[str, Any], label: str) -> None:
    run = make_spec("moco", scheme, FIELDS, overrides)
    assert scheme_label(run) == scheme_of(run).title == label
    assert label in run_title(run)


def test_a_label_has_the_runs_own_momentum() -> None:
    assert scheme_label(PROFILES["mini"].run("moco", "eman-m0.99999")) == "BN / EMAN (m=0.9999)"
    assert scheme_label(IMAGENET.run("moco", "eman-m0.99999")) == "BN / EMAN (m=0.99999)"


def test_a_method_without_a_teacher_is_named_after_its_student() -> None:
    assert scheme_label(make_spec("supervised", "default", {})) == "BN"
    assert scheme_label(make_spec("supervised", "gn", {})) == "GN"


def test_different_runs_never_share_a_title() -> None:
    runs = [
        *(spec(scheme) for scheme in ("bn", "eman")),
        *(spec(lr=lr, temperature=temperature) for lr in (0.1, 0.2) for temperature in (0.1, 0.2)),
        *(spec().replace(init=spec(seed=seed)) for seed in (1, 2)),
        spec(held_out=1000),
    ]
    titles = run_titles(runs)
    assert len(set(titles.values())) == len({run.key for run in runs}) == len(titles)
    assert "lr 0.2" in titles[spec(lr=0.2, temperature=0.1).key]
    assert titles[spec("bn").key] == "BN / BN · MoCo · s0"


# Errors


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch": 66, "queue": 660}, "batch is 66, which 4 devices do not divide"),
        ({"queue": 100}, "queue is 100, which the batch of 64 does not divide"),
        ({"momentum": 1.5}, "momentum is 1.5; give a number at least 0 and at most 1"),
        ({"eman_momentum": -0.1}, "eman_momentum is -0.1"),
        ({"lr": 0.0}, "lr is 0.0; give a number above 0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"lr": float("inf")}, "lr is inf"),
        ({"lr": "0.1"}, "lr is '0.1'; give a number"),
        ({"lr": None}, "lr is None; give a number"),
        ({"epochs": 2.5}, "epochs is 2.5; give a whole number"),
        ({"epochs": True}, "epochs is True; give a whole number"),
        ({"seed": 2**64}, "seed is 18446744073709551616; give a whole number"),
        ({"seed": -1}, "seed is -1"),
        ({"queue": 10**12}, "queue is 1000000000000"),
        ({"crop_min": 0.0}, "crop_min is 0.0; give a number above 0 and at most 1"),
        ({"blur_max": 1e6}, "blur_max is 1000000.0"),
        ({"optimizer": "adam"}, "unknown optimizer 'adam'"),
        ({"backbone": "resnet5"}, "unknown backbone 'resnet5'; did you mean 'resnet50'"),
        ({"dataset": "a b"}, "dataset is 'a b'; give a built-in name"),
        ({"dataset": "./missing"}, "missing"),
        ({"dataset": ".."}, "'..', a parent folder; name the folder of images"),
        ({"dataset": "cifar10", "images": 60_000}, "exceed the 50,000 training images of cifar10"),
        ({"dataset": "cifar10", "image_size": 64}, "64"),
        ({"student_norm": "batchnorm"}, "unknown student_norm 'batchnorm'.*Allowed: bn, "),
        ({"teacher_norm": "emann"}, "unknown teacher_norm 'emann'; did you mean 'eman'"),
        ({"teacher_norm": None}, "teacher_norm is none, and moco has a teacher"),
        ({"student_norm": "gn"}, "uses the student's batch statistics"),
        ({"student_norm": "gn", "teacher_norm": "bn"}, "the teacher copies the student's layers"),
        ({"teacher_norm": "gn"}, "the teacher copies the student's layers"),
        ({"devices": 1, "teacher_norm": "shufflebn"}, "devices is 1"),
        ({"teacher_norm": "bn", "eman_momentum": 0.9}, "eman_momentum is 0.9 and has no effect with teacher_norm bn"),
        ({"teacher_proxy_momentum": 0.9}, "teacher_proxy_momentum is 0.9 and has no effect with teacher_norm eman"),
        ({"epochs": 2, "warmup_epochs": 3.0}, "longer than the run"),
        ({"schedule": "step"}, "'step' needs them"),
        ({"schedule": "step", "milestones": ()}, "'step' needs them"),
        ({"schedule": "step", "milestones": (0.8, 0.6)}, "give increasing numbers"),
        ({"schedule": "step", "milestones": (0.8, 1.6)}, "milestones is 1.6; give numbers"),
        ({"schedule": "step", "milestones": (0.5, math.nan)}, "milestones is nan; give numbers"),
        ({"statistics_passes": -1}, "statistics_passes is -1"),
        ({"accumulate": 0}, "accumulate is 0; give a whole number at least 1"),
        ({"accumulate": 3}, "accumulate is 3, which does not divide the run's 4 devices"),
        ({"accumulate": 2, "device_statistics": "mean"}, "needs all devices at once"),
        ({"compile": True, "recompute": True}, "compile and recompute are both true"),
        ({"optimizer": "lars", "lars_exclude": "oficial"}, "did you mean 'official'"),
        ({"threshold": 0.5}, "threshold is not a field of moco; its own fields are: "),
        ({"crop_padding": 0.125, "image_size": 96}, "crop_padding is 0.125, which moves images of one size"),
        ({"crop_padding": 1.0}, "crop_padding is 1.0; give a number above 0 and below 1"),
        ({"tresh": 0.5}, "unknown field 'tresh'"),
    ],
)
def test_bad_values_are_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        spec(**fields)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"milestones": (0.5,)}, "milestones belong to schedule 'step'"),
        ({"lars_exclude": "official"}, "no effect with optimizer 'sgd'"),
        ({"optimizer": "lars", "nesterov": True}, "nesterov is True and has no effect with optimizer 'lars'"),
        ({"sgd_momentum": 0.0, "nesterov": True}, "nesterov is True and has no effect with sgd_momentum 0"),
        ({"schedule": "step", "milestones": (0.5,), "cosine_arc": 0.4}, "no effect with schedule 'step'"),
        ({"cosine_arc": 0.75}, "cosine_arc is 0.75; give a number above 0 and at most 0.5"),
        (
            {"student_norm": "gn", "teacher_norm": "gn", "student_proxy_momentum": 0.5},
            "student_proxy_momentum is 0.5 and has no effect with student_norm gn",
        ),
        ({"mocco.lr": 0.1}, "unknown method 'mocco'; did you mean 'moco'"),
        ({"moco.threshold": 0.1}, "threshold is not a field of moco"),
    ],
)
def test_overrides_without_effect_are_refused(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_spec("moco", "eman", FIELDS, overrides)


def test_a_profiles_dependent_values_give_way_to_overrides() -> None:
    plain = IMAGENET.run("byol", "eman", 0, {"optimizer": "sgd"}).optim
    assert (plain.lars_exclude, plain.lars_rate) == (None, None)
    assert IMAGENET.run("supervised", "default", 0, {"schedule": "cosine"}).optim.milestones is None
    profile = {"nesterov": True, "decay_exempts_vectors": True, "cosine_arc": 0.4, "student_proxy_momentum": 0.999}
    assert {"nesterov", "cosine_arc"} <= make_spec("moco", "eman", profile).flat().keys()
    other = {"optimizer": "lars", "schedule": "step", "milestones": (0.5,), "student_norm": "gn", "teacher_norm": "gn"}
    assert make_spec("moco", "eman", {**FIELDS, **profile}, other) == make_spec("moco", "eman", FIELDS, other)


def test_an_override_may_be_for_one_method() -> None:
    overrides = {"lr": 0.1, "moco.lr": 0.2, "byol.hidden_dim": 64}
    assert make_spec("moco", "eman", FIELDS, overrides).optim.lr == 0.2
    byol = make_spec("byol", "eman", {}, overrides).flat()
    assert (byol["lr"], byol["hidden_dim"]) == (0.1, 64)


def test_methods_without_a_teacher_or_unlabelled_images_have_no_such_fields() -> None:
    for name, value, message in (
        ("teacher_norm", "eman", "supervised has no teacher"),
        ("eman_momentum", 0.9, "eman_momentum is 0.9 and has no effect"),
        ("momentum", 0.9, "momentum is not a field of supervised"),
        ("batch", 64, "batch is not a field of supervised"),
    ):
        with pytest.raises(UserError, match=message):
            make_spec("supervised", "default", {}, {name: value})


def test_a_run_starts_from_one_of_the_same_backbone() -> None:
    with pytest.raises(UserError, match="the two must be the same"):
        spec().replace(init=spec(backbone="resnet18"))


def test_label_indexes_stay_in_their_folder() -> None:
    for name in ("../secret", "a/b", "/etc/passwd", "a/../../b", ""):
        with pytest.raises(UserError, match="label_index is"):
            make_spec("fixmatch", "eman", {"label_index": name})


def bad_values(kind: Any) -> Iterator[object]:
    """Values of another type, and such that lie beyond a field's bounds."""
    yield from ([], {}, object())
    if kind.choices or kind.base is str:
        yield from (1, 1.0, True)
    elif kind.base is bool:
        yield from (1, "true", 0.0)
    else:
        yield from ("x", "1", True, math.nan, math.inf, -math.inf, 1e300, -1)


@pytest.mark.parametrize("method", METHODS)
def test_every_field_refuses_what_it_cannot_hold(method: str) -> None:
    run = make_spec(method, "default", {})
    for field in fields_of(run):
        assert field.description.endswith("."), field.name
        for value in bad_values(field.kind):
            if field.kind.base is tuple and value == []:
                continue
            with pytest.raises(UserError, match=f"{field.name} ") as error:
                run.replace(**{field.name: value})
            assert "\n" not in str(error.value)


# Text


def test_parsing_of_assignments() -> None:
    assert parse_fields(["epochs=2", "lr=0.1", "images=none", "backbone=small", "milestones=0.5,0.8"]) == {
        "epochs": 2,
        "lr": 0.1,
        "images": None,
        "backbone": "small",
        "milestones": (0.5, 0.8),
    }
    assert parse_fields(["compile=true", "recompute=False"]) == {"compile": True, "recompute": False}
    assert parse_fields(["optim.lr=0.1", "moco.queue=512", "byol.lr=2"]) == {
        "lr": 0.1,
        "moco.queue": 512,
        "byol.lr": 2.0,
    }


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("compile=yes", "compile is 'yes'; give true or false"),
        ("epochs", "FIELD=VALUE"),
        ("epoch=2", "did you mean 'epochs'"),
        ("epochs=two", "epochs is 'two'; give a whole number"),
        ("epochs=none", "epochs is 'none'; give a whole number"),
        ("lr=fast", "give a number"),
        ("optimizer=adm", "unknown optimizer 'adm'"),
        ("optimizer.lr=1", "unknown section or method 'optimizer'; did you mean 'optim'"),
        ("optim.queue=1", "unknown field of optim 'queue'"),
        ("byol.queue=1", "unknown field of byol 'queue'"),
        ("source=abc", "source cannot be set by hand"),
        ("init=abc", "init cannot be set by hand"),
        ("method=moco", "method cannot be set by hand"),
    ],
)
def test_bad_assignments_are_named(pair: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_fields([pair])


def test_a_field_is_given_once() -> None:
    with pytest.raises(UserError, match="lr is given twice"):
        parse_fields(["lr=1", "optim.lr=2"])


def test_fields_are_listed_with_the_values_of_a_run() -> None:
    fields = {field.name: field for field in fields_of(SMOKE.run("moco", "eman"))}
    assert (fields["queue"].section, fields["queue"].default) == ("moco", 256)
    assert (fields["lr"].section, fields["lr"].kind.range) == ("optim", "> 0, <= 10,000")
    assert fields["schedule"].kind.range == "cosine, step"
    assert not {"method", "init", "source", "threshold"} & fields.keys()
    for name, field in fields.items():
        assert find_field(name)[1] == field.kind


# Methods


class TinySpec(UnlabelledSection, TeacherSection):
    name: Literal["tiny"] = "tiny"
    width: Annotated[int, Field(ge=1, le=8, description="A width.")] = 2


def tiny(**changes: Any) -> Method[Any]:
    values: dict[str, Any] = {
        "name": "tiny",
        "title": "Tiny",
        "section": TinySpec,
        "default_scheme": "bn",
        "views": {"one": ("unlabelled", "weak")},
        "student": (("one",),),
        "teacher": (("one",),),
        "losses": "eman.trainers.losses.byol",
    }
    return Method(**{**values, **changes})


@pytest.fixture
def tiny_method() -> Iterator[None]:
    register_method(tiny())
    yield
    del METHODS["tiny"]


@pytest.mark.usefixtures("tiny_method")
def test_a_method_of_ones_own_needs_no_change_elsewhere() -> None:
    run = make_spec("tiny", "eman", {}, parse_fields(["width=4", "tiny.batch=64"]))
    assert (run.flat()["width"], run.flat()["batch"], run_title(run)) == (4, 64, "BN / EMAN · Tiny · s0")
    assert RunSpec.from_flat(run.flat()) == run
    with pytest.raises(UserError, match="width is 9; give a whole number"):
        run.replace(width=9)


def test_methods_that_clash_are_refused() -> None:
    class Clash(TinySpec):
        lr: Annotated[float, Field(description="A rate.")] = 1.0

    for changes, message in (
        ({"name": "moco"}, "already registered"),
        ({"section": Clash}, "has a field 'lr', which all runs have"),
        ({"views": {"one": ("labelled", "weak")}}, "reads the streams labelled"),
    ):
        with pytest.raises(UserError, match=message):
            register_method(tiny(**changes))
    assert "tiny" not in METHODS


def test_specifications_need_no_torch() -> None:
    code = """
import sys
import eman.trainers.spec.build, eman.trainers.spec.labels, eman.trainers.spec.fields
assert not {"torch", "torchvision", "numpy", "ray", "mlflow"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
