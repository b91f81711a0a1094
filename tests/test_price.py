"""What hours cost, and the seeds that a difference takes."""

import pytest

from eman.evaluation.results.evidence import detectable, seeds_needed
from eman.platform.store.records import TRAINING
from eman.platform.store.store import Store
from eman.platform.workspace import Workspace
from eman.sweeps.plan import plan
from eman.sweeps.price import CORE_WATTS, GPU_WATTS, certainty, rates
from eman.sweeps.request import SweepRequest

pytestmark = pytest.mark.usefixtures("store_file")


def test_power_is_what_was_given_else_measured_else_assumed() -> None:
    store = Store(Workspace.from_environment())
    assert rates([]).watts == GPU_WATTS
    store.begin(TRAINING, "a", "a", params={}, tags={}).finish({"system/cpu_utilization_percentage": 90.0})
    assert rates(store.records(TRAINING)).watts == CORE_WATTS
    powers = {f"system/gpu_{number}_power_usage_watts": watts for number, watts in enumerate((300.0, 500.0))}
    store.begin(TRAINING, "b", "b", params={}, tags={}).finish(powers)
    measured = rates(store.records(TRAINING), price=2.0)
    assert (measured.watts, measured.energy(10)) == (400.0, 4.0)
    assert "4 kWh at 400 W (measured), 20.00 at 2 an hour" in measured.text(10)
    assert rates(store.records(TRAINING), watts=50.0).watts == 50.0


@pytest.mark.parametrize("difference", [5.0, 1.0, 0.5, 0.1])
def test_the_seeds_needed_are_the_fewest_that_find_the_difference(difference: float) -> None:
    seeds = seeds_needed(0.8, difference)
    assert seeds is not None
    assert (detectable(0.8, seeds) or 0) <= difference
    assert seeds == 2 or (detectable(0.8, seeds - 1) or 0) > difference


def test_more_seeds_than_anybody_runs_are_not_counted() -> None:
    assert seeds_needed(1.0, 1e-6) is None


def test_a_tenth_of_a_difference_takes_a_hundred_times_the_seeds() -> None:
    store = Store(Workspace.from_environment())
    sweep = plan(SweepRequest(tables=["table1"], profile="smoke", seeds=4))
    assert certainty(sweep, store, 1.0) is None
    for key, spec in sweep.trainings.items():
        value = 50.0 + 3 * spec.seed * (str(spec.norm.teacher_norm) == "eman")
        store.begin(TRAINING, key, key, params={}, tags={}).finish({"test/top1": value})
    whole, tenth = certainty(sweep, store, 2.0), certainty(sweep, store, 0.2)
    assert whole is not None and tenth is not None and whole.seeds is not None and tenth.seeds is not None
    assert tenth.seeds / whole.seeds == pytest.approx(100, rel=0.1)
    line = tenth.line(0.5, rates([], watts=100.0))
    assert f"takes {tenth.seeds:,} seeds" in line and f"{0.05 * tenth.seeds:.3g} kWh" in line
