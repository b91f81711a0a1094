"""What there is: runs in the store, data sets, versions."""

import sys
from collections import Counter
from importlib.metadata import PackageNotFoundError, version

from eman.platform.errors import UserError
from eman.platform.home import data_folder, home_folder
from eman.platform.tracking import SWEEP, TRAINING, Store, git_revision, store_uri
from eman.sweeps.progress import duration
from eman.trainers import data
from eman.trainers.training import fast_bf16

#: The data sets behind the profiles that run anywhere.
NEEDED = ("digits", "fashion-mnist")


def status_lines() -> list[str]:
    """Sweeps, newest first, and the number of trainings by profile, method and state."""
    store = Store()
    lines = [f"store {store_uri()}"]
    sweeps = store.records(SWEEP)
    for record in sweeps:
        seconds = record.metrics.get("sweep/seconds")
        took = f", {duration(seconds)}" if seconds else ""
        lines.append(f"sweep {record.name}: {record.status}{took}")
    counts = Counter(
        (r.tags.get("profile", ""), r.tags.get("method", ""), r.status) for r in store.by_key(TRAINING).values()
    )
    for (profile, method, state), count in sorted(counts.items()):
        lines.append(f"{profile}  {method:<11}{state:<8}{count:>4}")
    if not counts:
        lines.append("no runs yet; `eman sweep table1 table8 --profile quick` makes some")
    return lines


def run_lines() -> list[str]:
    """The trainings of the store, one a line: key, state, name, profile."""
    records = sorted(Store().records(TRAINING), key=lambda record: (record.tags.get("profile", ""), record.name))
    width = max((len(record.name) for record in records), default=0)
    return [
        f"{record.key}  {record.status:8}  {record.name:{width}}  {record.tags.get('profile', '')}"
        + (f"  ({record.reason})" if record.reason else "")
        for record in records
    ]


def data_lines() -> list[str]:
    """One line a data set."""
    lines = []
    for name in data.DATASETS:
        try:
            lines.append(f"{name:<15}{data.load(name, download=False).describe()}")
        except UserError as error:
            lines.append(f"{name:<15}not here: {error}")
    return lines


def doctor_lines() -> tuple[list[str], bool]:
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
        f"cores          {data.cores()}",
        f"GPUs           {', '.join(gpus) or 'none'}",
        f"bfloat16       {'fast' if fast_bf16() else 'slow here: profiles take float32'}",
        f"home           {home_folder()}",
        f"data folder    {data_folder()}",
    ]
    for line in data_lines():
        lines.append(f"data           {line}")
        well &= "not here" not in line or not line.startswith(NEEDED)
    try:
        store = Store()
        lines.append(f"store          {store_uri()}: {len(store.records())} runs")
    except UserError as error:
        lines.append(f"store          {error}")
        well = False
    lines.append("all is well" if well else "something is missing, see above")
    return lines, well
