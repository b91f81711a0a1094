"""Reading foreign checkpoints: the official code's and torchvision's."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from eman.platform.errors import UserError, named
from eman.trainers.backbones.registry import BACKBONES


@dataclass(frozen=True)
class Layout:
    """How a checkpoint names its tensors.

    Attributes:
        method: The method that trains such networks.
        student, teacher: Prefixes of the two backbones; the teacher may be absent.
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

#: Prefixes of heads that follow a backbone: a classifier, a projector.
_HEADS = ("fc.", "projector.", "predictor.", "neck.")


@dataclass(frozen=True)
class ForeignNetworks:
    """The networks of a foreign checkpoint.

    Attributes:
        backbone: Name of the backbone that all tensors fit.
        channels: Channels of its images.
        student, teacher: States of the backbones.
        taken: Names in the file and the names of the same tensors here.
        left: Names in the file that are not used.
    """

    backbone: str
    channels: int
    student: Mapping[str, Tensor]
    teacher: Mapping[str, Tensor] | None
    taken: Mapping[str, str]
    left: tuple[str, ...]


def read(path: Path, layout: str) -> ForeignNetworks:
    """Read a checkpoint without running any code in it.

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
            f"{path} holds no names that begin with {entry.student!r}, as layout {layout} has; its names begin with "
            f"{', '.join(seen)}. Layouts: {', '.join(LAYOUTS)}."
        )
    backbone, channels = _backbone(path, student)
    return ForeignNetworks(
        backbone, channels, student, teacher, taken, tuple(name for name in state if name not in taken)
    )


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise UserError(f"there is no file {path}; give a checkpoint.") from None
    except Exception as error:  # torch.load raises many kinds
        reason = (str(error).splitlines() or [""])[0][:120]
        raise UserError(f"{path} cannot be read as tensors alone ({type(error).__name__}: {reason}).") from None
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    state = state if isinstance(state, dict) else {}
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"{path} holds no state dict, neither by itself nor as 'state_dict'.")
    return tensors


def _backbone(path: Path, state: Mapping[str, Tensor]) -> tuple[str, int]:
    """Return the backbone with these names and shapes, and the channels of its images."""
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
