"""What commands do, as functions: train a run, run a sweep, read the results."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from eman.platform.errors import UserError
from eman.platform.modules import load
from eman.platform.store.records import EVALUATION, TRAINING, Record
from eman.platform.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd


def run(
    method: str,
    scheme: str = "default",
    *,
    profile: str = "smoke",
    seed: int = 0,
    modules: Sequence[str] = (),
    workspace: Workspace | None = None,
    **fields: Any,
) -> dict[str, float]:
    """Train one run in this process, or take it from the store if it is done, as ``eman train`` does.

    Args:
        method: The method.
        scheme: The scheme.
        profile: The scale.
        seed: The seed.
        modules: Modules to import, as for ``--module``; those that this program has imported need not be named.
        workspace: Folders and store; by default those of the environment.
        fields: Fields to override, for example ``epochs=2``; ``eman fields METHOD`` lists them.

    Returns:
        Its metrics, after the last epoch.

    Raises:
        UserError: A name or a value is not allowed, or the run failed.
    """
    load(modules)
    from eman.platform.store.store import Store
    from eman.sweeps.profiles.registry import profile_named
    from eman.sweeps.run.foreground import train_in_foreground

    spec = profile_named(profile).run(method, scheme, seed, fields)
    store = Store(workspace or Workspace.from_environment())
    for _ in train_in_foreground(spec, store, profile=profile, workers=1, command=""):
        pass
    return dict(store.by_key(TRAINING, [spec.key])[spec.key].metrics)


def sweep(
    *tables: str,
    methods: Sequence[str] = (),
    schemes: Sequence[str] = (),
    profile: str = "quick",
    seeds: int | Sequence[int] = 1,
    modules: Sequence[str] = (),
    workspace: Workspace | None = None,
    address: str | None = None,
    **request: Any,
) -> "pd.DataFrame":
    """Run what is missing of some tables, or of a grid of methods and schemes, as ``eman sweep`` does.

    Args:
        tables: Names of tables; none for a grid.
        methods: Methods of a grid.
        schemes: Schemes of a grid.
        profile: The scale.
        seeds: A number of seeds, or a list.
        modules: As for :func:`run`.
        workspace: As for :func:`run`.
        address: Address of a Ray cluster; ``None`` to start one on this machine.
        request: Further fields of :class:`~eman.sweeps.request.SweepRequest`, for example ``grid={"lr": (0.1, 0.3)}``.

    Returns:
        One row per cell: table, row, column, value, its spread over seeds and confidence interval, status, and the
        paper's value.

    Raises:
        UserError: A name or a value is not allowed, or runs failed.
    """
    load(modules)
    from eman.evaluation.results.long import frame
    from eman.evaluation.results.values import Results, values_of
    from eman.platform.store.store import Store
    from eman.sweeps.plan import plan
    from eman.sweeps.request import SweepRequest
    from eman.sweeps.run.options import Options
    from eman.sweeps.run.sweep import run_sweep

    planned = plan(
        SweepRequest(tables=tables, methods=methods, schemes=schemes, profile=profile, seeds=seeds, **request)
    )
    store = Store(workspace or Workspace.from_environment())
    report = run_sweep(planned, store, options=Options(address=address))
    if report.failed:
        raise UserError(f"{len(report.failed)} runs failed: {report.failed[0]}")
    found = Results.read(store, planned.tables)
    return frame([(table, values_of(table, found)) for table in planned.tables])


def results(*, workspace: Workspace | None = None, newest: int = 0) -> "pd.DataFrame":
    """Return what the store holds: one row per training and evaluation.

    Args:
        workspace: As for :func:`run`.
        newest: Read only this many of each kind, the newest; 0 for all.

    Returns:
        Columns ``key``, ``kind``, ``name``, ``status``, ``reason``; ``params.NAME`` of the specification;
        ``metrics.NAME``, the last values; and ``tags.NAME``, where the numbers come from: versions, revision, modules,
        hashes of the images.
    """
    import pandas as pd

    from eman.platform.store.store import Store

    store = Store(workspace or Workspace.from_environment())
    found = [record for kind in (TRAINING, EVALUATION) for record in store.records(kind, limit=newest)]
    return pd.DataFrame([_row(record) for record in found])


def _row(record: Record) -> dict[str, Any]:
    own = {name: getattr(record, name) for name in ("key", "kind", "name", "status", "reason")}
    groups = {"params": record.params, "metrics": record.metrics, "tags": record.tags}
    return own | {f"{group}.{name}": value for group, values in groups.items() for name, value in values.items()}
