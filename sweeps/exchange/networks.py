"""Networks from elsewhere, and ours for elsewhere: official checkpoints in; torchvision's layout and others out.

An imported network becomes a finished run of the store, with a key of its own: every evaluation takes it, and training
may start from it.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eman.evaluation.trained import Trained
from eman.platform import checkpoint
from eman.platform.errors import UserError, named, unknown
from eman.platform.output import output_file
from eman.platform.store.claims import is_taken
from eman.platform.store.records import TRAINING, Record, new_id
from eman.platform.store.store import Store
from eman.platform.workspace import Workspace
from eman.sweeps.exchange import serving
from eman.sweeps.profiles.imagenet import IMAGENET
from eman.sweeps.run.jobs import TrainJob
from eman.sweeps.run.train import begin_training
from eman.trainers.backbones.registry import BACKBONES, PREFIX
from eman.trainers.data import catalog as data
from eman.trainers.spec.labels import run_title


@dataclass(frozen=True)
class Layout:
    """How a checkpoint names what it holds.

    Attributes:
        method: The method that trains such networks.
        student, teacher: What the names of the two backbones begin with; the teacher may be absent.
    """

    method: str
    student: str
    teacher: str = ""


#: Layouts by name: the official code's (``module.`` before each name is optional) and torchvision's.
LAYOUTS = {
    "moco": Layout("moco", "encoder_q.", "encoder_k."),
    "byol": Layout("byol", "online_net.backbone.", "target_net.backbone."),
    "fixmatch": Layout("fixmatch", "main.", "ema."),
    "torchvision": Layout("supervised", ""),
}

#: What stands after a backbone in its own checkpoint: a classifier, a projector.
_HEADS = ("fc.", "projector.", "predictor.", "neck.")

EXPORTS = ("torchvision", "safetensors", "mlflow")


@dataclass(frozen=True)
class Found:
    """What a checkpoint holds.

    Attributes:
        backbone: Name of the backbone that fits, to the last shape.
        channels: Of its images.
        student, teacher: States of the backbones.
        taken: Names in the file, and what they are here.
        left: Names in the file that were not taken.
    """

    backbone: str
    channels: int
    student: Mapping[str, Tensor]
    teacher: Mapping[str, Tensor] | None
    taken: Mapping[str, str]
    left: tuple[str, ...]


def read(path: Path, layout: str) -> Found:
    """Reads a checkpoint without running any code that it may hold.

    Args:
        path: The file.
        layout: A name in :data:`LAYOUTS`.

    Raises:
        UserError: The file is missing, damaged, of another layout, or holds a network that is not known here.
    """
    entry = named("layout", layout, LAYOUTS)
    state = _tensors(path)
    plain = {name.removeprefix("module."): name for name in state}
    networks, taken = [], dict[str, str]()
    for role, prefix in (("student", entry.student), ("teacher", entry.teacher)):
        if role == "teacher" and not prefix:
            continue
        parts = {
            name.removeprefix(prefix): original
            for name, original in plain.items()
            if name.startswith(prefix) and not name.removeprefix(prefix).startswith(_HEADS)
        }
        networks.append({name: state[original] for name, original in parts.items()})
        taken |= {original: f"{role} {name}" for name, original in parts.items()}
    student, teacher = networks[0], networks[1] if len(networks) > 1 and networks[1] else None
    if not student:
        seen = sorted({name.split(".")[0] + "." for name in plain})[:6]
        raise UserError(
            f"{path} holds no names that begin with {entry.student!r}, as layout {layout} has them; its names begin "
            f"with {', '.join(seen)}; layouts: {', '.join(LAYOUTS)}."
        )
    backbone, channels = _backbone(path, student)
    return Found(backbone, channels, student, teacher, taken, tuple(name for name in state if name not in taken))


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise UserError(f"there is no file {path}; give a checkpoint.") from None
    except Exception as error:  # torch.load raises many kinds
        reason = (str(error).splitlines() or [""])[0][:120]
        raise UserError(f"{path} cannot be read as tensors alone ({type(error).__name__}: {reason}).") from None
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    found = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not found:
        raise UserError(f"{path} holds no state dict, neither by itself nor as 'state_dict'.")
    return found


def _backbone(path: Path, state: Mapping[str, Tensor]) -> tuple[str, int]:
    """The backbone with these names and shapes, and the channels of its images."""
    first = next((value for value in state.values() if value.dim() == 4), None)
    channels = 3 if first is None else first.shape[1]
    shapes = {name: value.shape for name, value in state.items()}
    nearest, fewest = "", len(state) + 1
    for name, entry in BACKBONES.items():
        with torch.device("meta"):
            ours = {key: value.shape for key, value in entry.build(channels).state_dict().items()}
        differing = sum(shapes.get(key) != shape for key, shape in ours.items()) + len(shapes.keys() - ours.keys())
        if not differing:
            return name, channels
        if differing < fewest:
            nearest, fewest = name, differing
    raise UserError(
        f"{path} holds a network that is none of ours; {nearest or 'none'} is nearest, with {fewest} tensors that "
        f"differ; ours are: {', '.join(BACKBONES)}."
    )


def take_in(
    path: Path, layout: str, store: Store, *, scheme: str = "default", dataset: str = "imagenet"
) -> Iterator[str]:
    """Makes a finished run of a checkpoint, and yields lines for a person.

    Args:
        path: The file.
        layout: A name in :data:`LAYOUTS`.
        store: Where the run goes.
        scheme: What it was trained with.
        dataset: What it was trained on.

    Raises:
        UserError: See :func:`read`.
    """
    found = read(path, layout)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    size = data.size_of(dataset, IMAGENET.common["image_size"])
    fields = {"dataset": dataset, "image_size": size, "backbone": found.backbone, "source": digest}
    spec = IMAGENET.run(LAYOUTS[layout].method, scheme, 0, fields)
    student, teacher = (
        None if state is None else {PREFIX + name: value for name, value in state.items()}
        for state in (found.student, found.teacher)
    )
    content = {"spec": spec.flat(), "step": 0, "epoch": 0, "student": student, "teacher": teacher}
    for selection in ("last", "best"):
        checkpoint.save(store.workspace.run_folder(spec.key) / f"{selection}.pt", content, spec.key)
    title = f"{run_title(spec)} · imported"
    if not is_taken(store, TRAINING, spec.key):
        job = TrainJob(spec=spec, title=title, profile="imported", workspace=store.workspace, launch=new_id())
        begin_training(job, store).finish({}, {"eman.source": path.name})
    networks = "student and teacher" if found.teacher else "student"
    yield f"{title} ({spec.key}): {found.backbone}, images of {found.channels} channels, {networks}"
    yield f"{len(found.taken)} tensors taken, {len(found.left)} left"
    yield from (f"  {name} -> {place}" for name, place in found.taken.items())
    yield from (f"  {name} left" for name in found.left)


def give_out(
    record: Record, workspace: Workspace, form: str, out: Path, *, network: str = "student", selection: str = "last"
) -> str:
    """Writes a run's backbone for others, and returns a line for a person.

    ``torchvision``: a state dict that torchvision's network of the same name loads strictly; its classifier, which a
    pretrained network has none of, is zero. ``safetensors``: the backbone's tensors, with the run's key. ``mlflow``: a
    folder that MLflow serves, see :mod:`eman.sweeps.exchange.serving`.

    Raises:
        UserError: The format is unknown, or has no such network, or the folder is there already.
    """
    if form not in EXPORTS:
        raise unknown("format", form, EXPORTS)
    trained = Trained(record.key, workspace, network, selection)
    which = f"the {network} after the {selection} epoch of {record.name}"
    if form == "mlflow":
        return f"{out}: images to {serving.write(trained, out, record.name)}, by {which}"
    name, backbone = trained.spec.network.backbone, trained.backbone()
    state: dict[str, Any] = {key: value.detach().cpu().contiguous() for key, value in backbone.state_dict().items()}
    if form == "torchvision":
        state |= _zero_classifier(name, record.key)
    with output_file(out) as temporary:
        if form == "safetensors":
            from safetensors.torch import save_file

            about = {"run": record.key, "backbone": name, "network": network, "selection": selection}
            save_file(state, temporary, about)
        else:
            torch.save(state, temporary)
    return f"{out}: {len(state)} tensors of {name}, {which}"


def _zero_classifier(name: str, run: str) -> dict[str, Tensor]:
    import torchvision

    if not hasattr(torchvision.models, name):
        raise UserError(f"torchvision has no network {name!r}, which run {run} is; give --format safetensors.")
    with torch.device("meta"):
        like = getattr(torchvision.models, name)().fc
    return {"fc.weight": torch.zeros(like.weight.shape), "fc.bias": torch.zeros(like.bias.shape)}
