"""Export a run's network: for torchvision, as safetensors, or as a model that MLflow serves."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eman.evaluation.exchange import serving
from eman.evaluation.trained import Trained
from eman.platform.errors import UserError, unknown
from eman.platform.output import output_file
from eman.platform.store.records import Record
from eman.platform.workspace import Workspace
from eman.trainers.norm.weights import fold_standardization

EXPORTS = ("torchvision", "safetensors", "mlflow")


def export_network(
    record: Record, workspace: Workspace, form: str, out: Path, *, network: str = "student", selection: str = "last"
) -> str:
    """Write a run's network, and return a line to print.

    ``torchvision``: a state dict that torchvision's network of the same name loads strictly; its classifier, which a
    pretrained network does not have, is zero. ``safetensors``: the backbone's tensors, with the run's key. ``mlflow``:
    a folder that MLflow serves, see :mod:`eman.evaluation.exchange.serving`.

    Raises:
        UserError: The format is unknown or does not have such networks, or ``out`` cannot be written.
    """
    if form not in EXPORTS:
        raise unknown("format", form, EXPORTS)
    trained = Trained(record.key, workspace, network, selection)
    which = f"the {network} after the {selection} epoch of {record.name}"
    if form == "mlflow":
        return f"{out}: images to {serving.write(trained, out, record.name)}, by {which}"
    name, backbone = trained.spec.network.backbone, trained.backbone()
    fold_standardization(backbone)
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
