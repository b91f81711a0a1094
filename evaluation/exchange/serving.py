"""Write a run's network as an MLflow model: from images, uint8, to probabilities or features.

The network is written as a traced graph (``torch.export``), which MLflow loads without this project and without
unpickling anything.

Shapes: N images, A channels, H by W pixels.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from eman.evaluation.trained import Trained
from eman.platform.output import output_folder
from eman.trainers.backbones.registry import backbone_named
from eman.trainers.data.splits import DataSet
from eman.trainers.views import transforms


class _FromBytes(nn.Module):
    """Map images ``(N, A, H, W)``, uint8, to a network's output, float32, scaling them by its run's statistics."""

    def __init__(self, network: nn.Module, dataset: DataSet, *, classifies: bool) -> None:
        super().__init__()
        self.network, self.mean, self.std, self.classifies = network, dataset.mean, dataset.std, classifies

    def forward(self, images_NAHW: Tensor) -> Tensor:
        output: Tensor = self.network(transforms.normalize(images_NAHW.float() / 255, self.mean, self.std))
        return output.softmax(1) if self.classifies else output


def write(trained: Trained, out: Path, title: str) -> str:
    """Write a new folder, and return a description of the model's output.

    The model computes in float32 on the CPU. ``title`` is the run's name, for the metadata.

    Raises:
        UserError: The run has no such network, or the folder exists.
    """
    dataset, spec = trained.splits.dataset, trained.spec
    classifier = trained.classifier()
    network = (classifier or trained.backbone()).to("cpu", torch.float32)
    model = _FromBytes(network, dataset, classifies=classifier is not None).eval()
    shape = dataset.train.shape
    width = backbone_named(spec.network.backbone).measures(*shape[:2]).features
    gives = f"{len(dataset.classes)} probabilities" if classifier else f"{width} features"
    about: dict[str, Any] = {
        "run": trained.run,
        "title": title,
        "network": trained.network,
        "selection": trained.selection,
        "backbone": spec.network.backbone,
        "dataset": spec.data.dataset,
        "input": f"images (N, {', '.join(map(str, shape))}), uint8, 0 to 255; the model scales them itself",
        "output": f"{gives} per image, float32",
        **({"classes": list(dataset.classes)} if classifier else {}),
    }
    with output_folder(out) as folder:
        _save(model, shape, about, folder)
    return gives


def _save(model: nn.Module, shape: tuple[int, ...], about: dict[str, Any], folder: Path) -> None:
    import mlflow.pytorch
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    example = np.zeros((2, *shape), np.uint8)  # one image would fix the batch size at 1
    with torch.no_grad():
        width = model(torch.from_numpy(example)).shape[1]
    signature = ModelSignature(
        Schema([TensorSpec(np.dtype(np.uint8), (-1, *shape))]), Schema([TensorSpec(np.dtype(np.float32), (-1, width))])
    )
    mlflow.pytorch.save_model(
        model,
        folder,
        signature=signature,
        input_example=example,
        metadata=about,
        serialization_format="pt2",
        # Without these, MLflow loads the model in another process to infer them.
        pip_requirements=[f"{name}=={version(name)}" for name in ("mlflow", "numpy", "torch")],
    )
    # The graph is tied to the CPU; without this, MLflow would load it on a GPU if there is one.
    written = Model.load(folder)
    written.flavors["python_function"]["config"] = {"device": "cpu"}
    written.save(folder / "MLmodel")
