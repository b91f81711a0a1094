"""`eman doctor` and `eman data list`: versions, machine, data sets."""

import sys
from importlib.metadata import PackageNotFoundError, version

from eman.platform.errors import UserError
from eman.platform.machine import cores, fast_bf16
from eman.platform.store.client import without_password
from eman.platform.store.provenance import git_revision
from eman.platform.store.store import Store
from eman.platform.workspace import Workspace
from eman.trainers.data import catalog as data
from eman.trainers.data.known import KNOWN
from eman.trainers.data.own import OWN

#: Data sets of the profiles that run without a GPU.
NEEDED = ("digits", "fashion-mnist")


def data_lines(workspace: Workspace) -> list[str]:
    lines = []
    for name in [*KNOWN, *OWN, *data.own_sets(workspace)]:
        try:
            lines.append(f"{name:<15}{data.read(name, workspace, download=False).describe()}")
        except UserError as error:
            lines.append(f"{name:<15}not here: {error}")
    return lines


def doctor_lines(workspace: Workspace) -> tuple[list[str], bool]:
    """Return the state of the installation as lines, and whether everything needed is present."""
    import torch

    complete = True
    lines = [f"python         {sys.version.split()[0]}"]
    for package in ("eman", "torch", "torchvision", "ray", "mlflow", "pandas", "pyarrow"):
        try:
            lines.append(f"{package:<15}{version(package)}")
        except PackageNotFoundError:
            lines.append(f"{package:<15}missing: run `make install`")
            complete = False
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    lines += [
        f"git            {git_revision()}",
        f"cores          {cores()}",
        f"GPUs           {', '.join(gpus) or 'none'}",
        f"bfloat16       {'fast' if fast_bf16() else 'slow here: profiles take float32'}",
        f"home           {workspace.home}",
        f"data folder    {workspace.data}",
    ]
    data_here = data_lines(workspace)
    lines += [f"data           {line}" for line in data_here]
    complete &= not any("not here" in line and line.startswith(NEEDED) for line in data_here)
    try:
        store = Store(workspace)
        newest = [record.name for record in store.records(limit=1)]
        runs = f"newest run {newest[0]}" if newest else "no runs yet"
        lines.append(f"store          {without_password(store.uri)}: {runs}")
    except UserError as error:
        lines.append(f"store          {error}")
        complete = False
    lines.append("all is well" if complete else "something is missing, see above")
    return lines, complete
