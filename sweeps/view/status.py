"""What there is: runs in the store, data sets, versions."""

import sys
from collections import Counter
from importlib.metadata import PackageNotFoundError, version

from eman.platform.errors import UserError
from eman.platform.machine import cores, fast_bf16
from eman.platform.store.store import SWEEP, TRAINING, Record, Store, git_revision
from eman.platform.workspace import Workspace
from eman.sweeps.plan import Sweep, plan
from eman.sweeps.request import SweepRequest
from eman.sweeps.view.live import duration
from eman.trainers.data import catalog as data

#: The data sets behind the profiles that run anywhere.
NEEDED = ("digits", "fashion-mnist")


def status_lines(workspace: Workspace) -> list[str]:
    """Sweeps, newest first, and the number of trainings by profile, method and state."""
    store = Store(workspace)
    lines = [f"store {store.uri}"]
    sweeps = store.records(SWEEP)
    for record in sweeps:
        seconds = record.metrics.get("sweep/seconds")
        took = f", {duration(seconds)}" if seconds else ""
        shown = "interrupted" if record.status == "missing" else record.status
        lines.append(f"sweep {record.key[:8]}  {record.name}: {shown}{took}")
    counts = Counter(
        (r.tags.get("profile", ""), r.tags.get("method", ""), r.status) for r in store.by_key(TRAINING).values()
    )
    for (profile, method, state), count in sorted(counts.items()):
        lines.append(f"{profile}  {method:<11}{state:<8}{count:>4}")
    if not counts:
        lines.append("no runs yet; `eman sweep table1 table8 --profile quick` makes some")
    return lines


def run_lines(workspace: Workspace) -> list[str]:
    """The trainings of the store, one a line: key, state, name, profile."""
    records = sorted(
        Store(workspace).records(TRAINING), key=lambda record: (record.tags.get("profile", ""), record.name)
    )
    width = max((len(record.name) for record in records), default=0)
    return [
        f"{record.key}  {record.status:8}  {record.name:{width}}  {record.tags.get('profile', '')}"
        + (f"  ({record.reason})" if record.reason else "")
        for record in records
    ]


def found_sweep(start: str | None, store: Store) -> Record:
    """The sweep of that name, or whose key begins so; of several the newest, as ``None`` asks for.

    Raises:
        UserError: There is none.
    """
    records = sorted(store.records(SWEEP), key=_launched, reverse=True)
    for record in records:
        if start is None or start in (record.name, record.name.partition(" · ")[0]) or record.key.startswith(start):
            return record
    if not records:
        raise UserError("the store holds no sweep yet; `eman sweep table1 --profile quick` makes one.")
    known = ", ".join(f"{record.key[:8]} ({record.name})" for record in records[:5])
    raise UserError(f"there is no sweep {start!r}; give a name, or the beginning of a key. The newest: {known}.")


def planned_sweep(record: Record) -> Sweep:
    """What a sweep's run in the store stands for.

    Raises:
        UserError: It was planned by another version, in which other runs stand behind the same names.
    """
    request = record.tags.get("eman.request")
    sweep = plan(SweepRequest.from_json(request)) if request else None
    if sweep is None or sweep.key != record.key:
        raise UserError(
            f"sweep {record.key[:8]} ({record.name}) was made by another version of eman (git "
            f"{record.tags.get('eman.git', 'unknown')}), whose runs are not this one's; use that version, or "
            f"launch the sweep again with this one."
        )
    return sweep


def _launched(record: Record) -> float:
    return float(record.tags.get("eman.launched", record.start))


def data_lines(workspace: Workspace) -> list[str]:
    """One line a data set."""
    lines = []
    for name in data.DATASETS:
        try:
            lines.append(f"{name:<15}{data.load(name, workspace, download=False).describe()}")
        except UserError as error:
            lines.append(f"{name:<15}not here: {error}")
    return lines


def doctor_lines(workspace: Workspace) -> tuple[list[str], bool]:
    """The surroundings, and whether all is well."""
    import torch

    well = True
    lines = [f"python         {sys.version.split()[0]}"]
    for package in ("eman", "torch", "torchvision", "ray", "mlflow", "pandas", "pyarrow"):
        try:
            lines.append(f"{package:<15}{version(package)}")
        except PackageNotFoundError:
            lines.append(f"{package:<15}missing: run `make install`")
            well = False
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    lines += [
        f"git            {git_revision()}",
        f"cores          {cores()}",
        f"GPUs           {', '.join(gpus) or 'none'}",
        f"bfloat16       {'fast' if fast_bf16() else 'slow here: profiles take float32'}",
        f"home           {workspace.home}",
        f"data folder    {workspace.data}",
    ]
    for line in data_lines(workspace):
        lines.append(f"data           {line}")
        well &= "not here" not in line or not line.startswith(NEEDED)
    try:
        store = Store(workspace)
        lines.append(f"store          {store.uri}: {len(store.records())} runs")
    except UserError as error:
        lines.append(f"store          {error}")
        well = False
    lines.append("all is well" if well else "something is missing, see above")
    return lines, well
