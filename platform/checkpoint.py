"""Checkpoints: written beside and renamed, verified when read, of a known format."""

import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from eman.platform.errors import UserError

#: Raised by one whenever the layout of a checkpoint changes.
FORMAT = 1


def save(path: Path, content: dict[str, Any], key: str) -> None:
    """Writes a checkpoint so that a reader sees the old file or the whole new one, never a part.

    Args:
        path: Where; its folder is made if need be.
        content: Tensors and plain values.
        key: Key of the run, checked again by :func:`load`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save({"format": FORMAT, "key": key, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load(path: Path, key: str) -> dict[str, Any]:
    """Reads a checkpoint of the run ``key``.

    Raises:
        UserError: It is damaged, of a newer format, or another run's.
    """
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
        written, owner = content["format"], content["key"]
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}; train the run first.") from None
    except Exception as error:  # torch.load raises many kinds on a damaged file
        raise UserError(f"checkpoint {path} is damaged ({type(error).__name__}); delete it and run again.") from error
    if written > FORMAT:
        raise UserError(
            f"checkpoint {path} has format {written}, and this version reads up to {FORMAT}; update eman, or "
            f"choose another EMAN_HOME."
        )
    if owner != key:
        raise UserError(f"checkpoint {path} belongs to run {owner}, not to {key}; choose another folder.")
    return dict(content)
