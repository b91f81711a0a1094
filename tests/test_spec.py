"""Specifications and their keys."""

import pytest

from eman.platform.errors import UserError
from eman.platform.spec import EvalSpec, RunSpec, parse_fields
from eman.trainers.methods import make_spec

FIELDS = {"devices": 4, "batch": 64, "queue": 256}


def spec(**fields: object) -> RunSpec:
    return make_spec("moco", "eman", {**FIELDS, **fields})


def test_key_is_stable_and_moves_with_every_field() -> None:
    assert spec().key == spec().key
    assert len({spec().key, spec(seed=1).key, spec(lr=0.5).key, spec(devices=2).key, spec(momentum=0.9).key}) == 5


def test_fields_that_a_method_does_not_use_do_not_count() -> None:
    assert "threshold" not in spec().fields()
    assert RunSpec.from_fields(spec().fields()) == spec()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch": 66}, "batch is 66, which 4 devices do not divide"),
        ({"queue": 100}, "queue is 100, which the batch of 64 does not divide"),
        ({"momentum": 1.5}, "momentum is 1.5; it must lie between 0 and 1"),
        ({"eman_momentum": -0.1}, "eman_momentum is -0.1"),
        ({"lr": 0.0}, "lr is 0.0; it must be greater than 0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"crop_min": 0.0}, "crop_min is 0.0; it must lie above 0"),
        ({"optimizer": "adam"}, "unknown optimizer 'adam'"),
        ({"epochs": 2, "warmup_epochs": 3.0}, "longer than the run"),
        ({"schedule": "step"}, "'step' needs them"),
        ({"statistics_passes": -1}, "statistics_passes is -1"),
    ],
)
def test_bad_values_are_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        spec(**fields)


def test_bad_fractions_are_named() -> None:
    with pytest.raises(UserError, match=r"label_fraction is 1\.2"):
        make_spec("fixmatch", "eman", {"label_fraction": 1.2})
    with pytest.raises(UserError, match="label_fraction is 0"):
        EvalSpec(run="x", label_fraction=0)


def test_parsing_of_assignments() -> None:
    assert parse_fields(["epochs=2", "lr=0.1", "queue=none", "backbone=small", "milestones=0.5,0.8"]) == {
        "epochs": 2,
        "lr": 0.1,
        "queue": None,
        "backbone": "small",
        "milestones": (0.5, 0.8),
    }
    for pair, message in (
        ("epochs", "FIELD=VALUE"),
        ("epoch=2", "did you mean 'epochs'"),
        ("epochs=two", "whole number"),
        ("lr=fast", "must be a number"),
    ):
        with pytest.raises(UserError, match=message):
            parse_fields([pair])


def test_evaluation_key_holds_run_and_rate() -> None:
    keys = {EvalSpec(run=run, lr=lr).key for run in ("a", "b") for lr in (1.0, 2.0)}
    assert len(keys) == 4
