"""Energy and money of hours of computation, and what finding a smaller difference costs."""

import re
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from eman.evaluation.results.claims import index_cells, judge
from eman.evaluation.results.evidence import MOST_NEEDED, POWER, seeds_needed
from eman.evaluation.results.verdicts import median_deviation
from eman.platform.store.records import Record
from eman.platform.store.store import Store
from eman.sweeps.claims.registry import claim_results, claims_about
from eman.sweeps.cost import Cost
from eman.sweeps.plan import Sweep

#: Watts of a GPU where none was measured: the limit in NVIDIA's data sheet of the H100 (SXM).
GPU_WATTS = 700.0

#: Watts of a process without a GPU: a core's share of a server processor of 320 W with 32 cores.
CORE_WATTS = 10.0


@dataclass(frozen=True)
class Rates:
    """What an hour costs.

    Attributes:
        watts: Power of one GPU, or of one process without one.
        source: Where the power comes from, in words.
        price: Money for an hour of one GPU or process; ``None`` if unknown.
    """

    watts: float
    source: str
    price: float | None = None

    def energy(self, hours: float) -> float:
        """Return kilowatt-hours."""
        return hours * self.watts / 1000

    def text(self, hours: float) -> str:
        """Return the energy and the money of some hours, in words."""
        money = "" if self.price is None else f", {self.price * hours:,.2f} at {self.price:g} an hour"
        return f"{self.energy(hours):,.3g} kWh at {self.watts:,.0f} W ({self.source}){money}"


def rates(runs: Iterable[Record], watts: float | None = None, price: float | None = None) -> Rates:
    """Return what an hour costs.

    Args:
        runs: Runs whose GPUs' power is used, if it was measured.
        watts: Power to use instead.
        price: Money for an hour.
    """
    if watts is not None:
        return Rates(watts, "as given", price)
    runs = list(runs)
    powers = [
        value
        for run in runs
        for name, value in run.metrics.items()
        if re.fullmatch(r"system/gpu_\d+_power_usage_watts", name)
    ]
    if powers:
        return Rates(statistics.median(powers), "measured", price)
    if runs:
        return Rates(CORE_WATTS, "assumed for a core", price)
    return Rates(GPU_WATTS, "the limit of an H100", price)


@dataclass(frozen=True)
class Certainty:
    """How many seeds would find a difference between two rows.

    Attributes:
        difference: The difference, in percentage points.
        spread: Standard deviation of differences between rows over seeds, the median of the claims that have results.
        seeds: The number of seeds; ``None`` if there are too many.
    """

    difference: float
    spread: float
    seeds: int | None

    def line(self, hours: float | None, rates: Rates) -> str:
        """Return it in words, with the cost; `hours` are those of one seed."""
        aim = f"finding a difference of {self.difference:g} with {100 * POWER:g} % probability"
        if self.seeds is None:
            return f"{aim} takes more than {MOST_NEEDED:,} seeds: differences vary by {self.spread:.2g}"
        cost = "" if hours is None else f": {hours * self.seeds:,.3g} h, {rates.text(hours * self.seeds)}"
        return f"{aim} takes {self.seeds:,} seeds, as differences vary by {self.spread:.2g}{cost}"


def certainty(sweep: Sweep, store: Store, difference: float) -> Certainty | None:
    """Return how many seeds find a difference in a sweep's tables; ``None`` if no claim has enough results for it."""
    about = claims_about(index_cells(sweep.tables))
    spread = median_deviation(judge(claim_results(about, sweep.scope, store))) if about else None
    return None if spread is None else Certainty(difference, spread, seeds_needed(spread, difference))


def priced(
    cost: Cost, hourly: Rates, store: Store, difference: float | None
) -> tuple[list[str], dict[str, float | None]]:
    """Return what a sweep's hours cost, and those of finding a difference if it is given: as lines, and by name."""
    hours = cost.hours
    lines = [] if hours is None else [f"energy: {hourly.text(hours)}"]
    values = {
        "watts": hourly.watts,
        "kwh": None if hours is None else hourly.energy(hours),
        "price": None if hours is None or hourly.price is None else hourly.price * hours,
    }
    if difference is not None:
        found = certainty(cost.sweep, store, difference)
        of_one = None if hours is None else hours / len(cost.sweep.request.seeds)
        unknown = "seeds: unknown, since no claim about these tables has three seeds in the store"
        lines.append(unknown if found is None else found.line(of_one, hourly))
        values["seeds_needed"] = None if found is None else found.seeds
    return lines, values
