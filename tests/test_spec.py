"""Specifications and their keys."""

import pytest

from eman.platform.errors import UserError
from eman.sweeps.profiles.smoke import SMOKE
from eman.trainers.spec.build import make_spec
from eman.trainers.spec.fields import parse_fields
from eman.trainers.spec.run import RunSpec
from eman.trainers.spec.sections import ExecutionSpec

FIELDS = {"devices": 4, "batch": 64, "queue": 256}


def spec(**fields: object) -> RunSpec:
    return make_spec("moco", "eman", {**FIELDS, **fields})


def test_key_is_stable_and_moves_with_every_field() -> None:
    assert spec().key == spec().key
    assert len({spec().key, spec(seed=1).key, spec(lr=0.5).key, spec(devices=2).key, spec(momentum=0.9).key}) == 5


@pytest.mark.parametrize(
    ("method", "key"),
    [("fixmatch", "e1737c152844e16f"), ("moco", "c5f965496a3dff1a"), ("byol", "4fe562d6f85e1f2d")],
)
def test_keys_of_runs_that_people_have_stay(method: str, key: str) -> None:
    """A new field that moves them would have every finished run trained again. TRAINING_VERSION moves them on purpose:
    2 since both views of BYOL go through the network in one pass, which rounds otherwise."""
    assert SMOKE.run(method, "eman").key == key


EXECUTED = {"channels_last": True, "compile": True, "accumulate": 2}


def test_how_a_run_is_computed_is_no_part_of_its_key() -> None:
    plain = spec()
    assert not set(ExecutionSpec.model_fields) & plain.flat().keys()
    for name, value in {**EXECUTED, "recompute": True}.items():
        changed = plain.replace(**{name: value})
        assert changed.key == plain.key
        assert changed.flat()[name] == value
        assert RunSpec.from_flat(changed.flat()) == changed
    assert plain.replace(init=spec(seed=1, **EXECUTED)).key == plain.replace(init=spec(seed=1)).key
    assert plain.replace(init=spec(seed=1, **EXECUTED)).key != plain.replace(init=spec(seed=2, **EXECUTED)).key
    assert plain.replace(precision="fp16").key != plain.key


def test_what_lars_leaves_out_counts_where_it_differs() -> None:
    plain = spec(optimizer="lars")
    assert spec(optimizer="lars", lars_exclude="vectors").key == plain.key
    assert spec(optimizer="lars", lars_exclude="official").key != plain.key


def test_fields_that_a_method_does_not_use_do_not_count() -> None:
    assert "threshold" not in spec().flat()
    assert RunSpec.from_flat(spec().flat()) == spec()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch": 66, "queue": 660}, "batch is 66, which 4 devices do not divide"),
        ({"queue": 100}, "queue is 100, which the batch of 64 does not divide"),
        ({"momentum": 1.5}, "momentum is 1.5; give a number at least 0 and at most 1"),
        ({"eman_momentum": -0.1}, "eman_momentum is -0.1"),
        ({"lr": 0.0}, "lr is 0.0; give a number above 0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"crop_min": 0.0}, "crop_min is 0.0; give a number above 0 and at most 1"),
        ({"optimizer": "adam"}, "unknown optimizer 'adam'"),
        ({"epochs": 2, "warmup_epochs": 3.0}, "longer than the run"),
        ({"schedule": "step"}, "'step' needs them"),
        ({"statistics_passes": -1}, "statistics_passes is -1"),
        ({"accumulate": 0}, "accumulate is 0; give a whole number at least 1"),
        ({"compile": True, "recompute": True}, "compile and recompute are both true"),
        ({"lars_exclude": "official"}, "no effect with optimizer 'sgd'"),
        ({"optimizer": "lars", "lars_exclude": "oficial"}, "did you mean 'official'"),
    ],
)
def test_bad_values_are_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        spec(**fields)


def test_bad_fractions_are_named() -> None:
    with pytest.raises(UserError, match=r"label_fraction is 1\.2"):
        make_spec("fixmatch", "eman", {"label_fraction": 1.2})


def test_parsing_of_assignments() -> None:
    assert parse_fields(["epochs=2", "lr=0.1", "images=none", "backbone=small", "milestones=0.5,0.8"]) == {
        "epochs": 2,
        "lr": 0.1,
        "images": None,
        "backbone": "small",
        "milestones": (0.5, 0.8),
    }
    assert parse_fields(["compile=true", "recompute=False"]) == {"compile": True, "recompute": False}
    for pair, message in (
        ("compile=yes", "compile is 'yes'; give true or false"),
        ("epochs", "FIELD=VALUE"),
        ("epoch=2", "did you mean 'epochs'"),
        ("epochs=two", "whole number"),
        ("lr=fast", "give a number"),
    ):
        with pytest.raises(UserError, match=message):
            parse_fields([pair])
