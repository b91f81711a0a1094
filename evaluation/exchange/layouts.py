"""Read foreign checkpoints: the official code's and torchvision's."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from eman.platform.errors import UserError, first_line, named
from eman.trainers.backbones.registry import BACKBONES


@dataclass(frozen=True)
class Layout:
    """The method that a checkpoint belongs to, and the prefixes of its backbones' tensors."""

    method: str
    student: str
    teacher: str | None = None


#: Layouts by name: the official code's (``module.`` before each name is optional) and torchvision's.
LAYOUTS = {
    "moco": Layout("moco", "encoder_q.", "encoder_k."),
    "byol": Layout("byol", "online_net.backbone.", "target_net.backbone."),
    "fixmatch": Layout("fixmatch", "main.", "ema."),
    "torchvision": Layout("supervised", ""),
}

#: Prefixes of heads that follow a backbone.
_HEADS = ("fc.", "projector.", "predictor.", "neck.")


@dataclass(frozen=True)
class ForeignNetworks:
    """The networks of a foreign checkpoint.

    Attributes:
        backbone: Name of the backbone that all tensors fit.
        channels: Channels of its images.
        student, teacher: States of the backbones.
        taken: Roles and names of the tensors by their names in the file.
        left: Names in the file that are not used.
    """

    backbone: str
    channels: int
    student: Mapping[str, Tensor]
    teacher: Mapping[str, Tensor] | None
    taken: Mapping[str, str]
    left: tuple[str, ...]


def read(path: Path, layout: str) -> ForeignNetworks:
    """Read a checkpoint with a layout in :data:`LAYOUTS`, without running any code in it.

    Raises:
        UserError: The file is missing, damaged, has another layout, or holds an unknown network.
    """
    entry, tensors = named("layout", layout, LAYOUTS), _tensors(path)
    prefixes = {"student": entry.student} | ({"teacher": entry.teacher} if entry.teacher else {})
    states: dict[str, dict[str, Tensor]] = {role: {} for role in ("student", "teacher")}
    taken = {}
    for original, value in tensors.items():
        for role, prefix in prefixes.items():
            name = original.removeprefix("module.")
            if name.startswith(prefix) and not name.removeprefix(prefix).startswith(_HEADS):
                states[role][name.removeprefix(prefix)] = value
                taken[original] = f"{role} {name.removeprefix(prefix)}"
    if not states["student"]:
        seen = sorted({name.removeprefix("module.").split(".")[0] + "." for name in tensors})[:6]
        raise UserError(
            f"{path} holds no names that begin with {entry.student!r}, as layout {layout} has; its names begin with "
            f"{', '.join(seen)}. Layouts: {', '.join(LAYOUTS)}."
        )
    backbone, channels = _backbone(path, states["student"])
    left = tuple(name for name in tensors if name not in taken)
    return ForeignNetworks(backbone, channels, states["student"], states["teacher"] or None, taken, left)


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise UserError(f"there is no file {path}; give a checkpoint.") from None
    except Exception as error:  # torch.load raises many types
        raise UserError(
            f"{path} cannot be read as tensors alone ({type(error).__name__}: {first_line(error)})."
        ) from None
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    tensors = {str(n): v for n, v in state.items() if isinstance(v, Tensor)} if isinstance(state, dict) else {}
    if not tensors:
        raise UserError(f"{path} holds no state dict, neither by itself nor as 'state_dict'.")
    return tensors


def _backbone(path: Path, state: Mapping[str, Tensor]) -> tuple[str, int]:
    """Return the backbone with these names and shapes, and the channels of its images."""
    channels = next((value.shape[1] for value in state.values() if value.dim() == 4), 3)
    shapes = {(name, value.shape) for name, value in state.items()}
    differing = {}
    for name, entry in BACKBONES.items():
        with torch.device("meta"):
            ours = {(key, value.shape) for key, value in entry.build(channels).state_dict().items()}
        differing[name] = len({key for key, _ in ours ^ shapes})
    nearest = min(differing, key=differing.__getitem__)
    if differing[nearest]:
        raise UserError(
            f"{path} holds a network that is none of ours; {nearest} is nearest, with {differing[nearest]} differing "
            f"tensors; ours are: {', '.join(BACKBONES)}."
        )
    return nearest, channels
