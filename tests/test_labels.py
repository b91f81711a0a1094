"""Names of schemes and runs: one and the same in tables, figures and lists of runs."""

import math
from dataclasses import replace

import pytest

from eman.evaluation.results.figures import points
from eman.evaluation.results.render import render
from eman.evaluation.results.values import Results, values_of
from eman.platform.store.records import TRAINING
from eman.platform.store.store import Store
from eman.platform.workspace import Workspace
from eman.sweeps.plan import TABLES
from eman.sweeps.profiles.imagenet import IMAGENET
from eman.sweeps.profiles.profile import Profile
from eman.sweeps.profiles.smoke import SMOKE
from eman.sweeps.tables import figure3
from eman.sweeps.tables.scope import Scope
from eman.trainers.norm.colours import COLOURS
from eman.trainers.spec.labels import scheme_label

#: Making the store is not what these tests are about.
pytestmark = pytest.mark.usefixtures("store_file")


@pytest.mark.parametrize(
    ("profile", "printed"),
    [(SMOKE, "BN / EMAN (m=0.999)"), (IMAGENET, "BN / EMAN (m=0.99999)")],
)
def test_rows_are_printed_with_the_momenta_of_their_runs(profile: Profile, printed: str) -> None:
    table = TABLES["table8"](Scope(profile=profile))
    cell = next(cell for cell in table.cells if cell.row == "BN / EMAN (m=0.99999)" and cell.wanted)
    assert cell.paper == "54.6"
    assert table.printed(cell.row) == scheme_label(cell.wanted[0].run) == printed
    assert table.printed("default / default") == "default / default"  # another scheme in each method
    values = values_of(table, Results.read(Store(Workspace.from_environment()), [table]))
    for form in ("text", "markdown", "latex"):
        assert printed in render([(table, values)], form)
    assert "BN / EMAN (m=0.99999)" in render([(table, values)], "csv")


def test_figure_3_names_each_run_as_tables_do_and_shows_the_spread_of_seeds() -> None:
    store, scope = Store(Workspace.from_environment()), Scope(profile=SMOKE, seeds=(0, 1))
    found = figure3.lines(scope)
    moco = {line.label: line for line in found if line.panel.startswith("MoCo")}
    assert moco.keys() == {"BN / BN", "SyncBN / SyncBN", "BN / ShuffleBN", "GN / GN", "IN / IN", "BN / EMAN"}
    assert {line.panel for line in moco.values()} == {"MoCo\ndefault: BN / ShuffleBN"}
    assert {line.label: line.colour for line in found}["BN / EMAN"] == COLOURS["eman"]
    line = moco["BN / EMAN"]
    for run, value in zip(line.runs, (50.0, 54.0), strict=True):
        log = store.begin(TRAINING, run.key, "x", params={}, tags={})
        log.epoch(1, {line.metric: value})
        log.finish()
    curve = points(line, store, store.by_key(TRAINING))
    assert (curve.epochs, curve.means) == ((1,), (52.0,))
    assert curve.deviations == pytest.approx((math.sqrt(8),))
    alone = points(replace(line, runs=line.runs[:1]), store, store.by_key(TRAINING))
    assert (alone.means, alone.deviations) == ((50.0,), (0.0,))
