"""A finished run to evaluate: its network at an epoch, and the network's features."""

from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from eman.evaluation import features
from eman.evaluation.features import Features, Splits
from eman.evaluation.protocols.sizes import EvalSizes
from eman.platform import checkpoint
from eman.platform.errors import RunFailed, UserError
from eman.platform.storage import Place
from eman.platform.workspace import Workspace
from eman.trainers import distributed
from eman.trainers.backbones.registry import PREFIX, backbone_named
from eman.trainers.backbones.state import load_backbone
from eman.trainers.data import catalog as data
from eman.trainers.data import label_sets
from eman.trainers.norm.convert import convert_norm
from eman.trainers.precision import use_whole_float32
from eman.trainers.spec.run import RunSpec

#: Features have collapsed below this :func:`~eman.evaluation.features.spread`; bfloat16 rounds to about this.
COLLAPSED = 1e-3


@dataclass(frozen=True)
class Trained:
    """A run's network, loaded at first use.

    Attributes:
        run: Key of the training.
        workspace: Location of its files and of data sets.
        network: ``"student"`` or ``"teacher"``.
        selection: ``"last"`` or ``"best"``.
        dataset: Data set to evaluate on; ``None`` for the one of the training.
    """

    run: str
    workspace: Workspace
    network: str = "student"
    selection: str = "last"
    dataset: str | None = None

    @property
    def folder(self) -> Place:
        """Folder of the run's checkpoints and features."""
        return self.workspace.run_folder(self.run)

    @property
    def _checkpoint(self) -> Place:
        return self.folder / f"{self.selection}.pt"

    @cached_property
    def _saved(self) -> dict[str, Any]:
        return checkpoint.load(self._checkpoint, self.run, fields=("spec", "student", "teacher"))

    @cached_property
    def spec(self) -> RunSpec:
        """Specification that the checkpoint was trained by."""
        return RunSpec.from_flat(self._saved["spec"])

    @cached_property
    def splits(self) -> Splits:
        """The images to evaluate on; see :func:`splits_of`.

        Raises:
            UserError: They have changed since the training, or have another number of channels.
        """
        splits = splits_of(self.spec, self.dataset, self.workspace)
        if self.dataset in (None, self.spec.data.dataset):
            splits.dataset.must_be(self._saved.get("data"), self.run)
        return splits

    @property
    def data_hash(self) -> str:
        """Hash of the images to evaluate on; those of the training are not read for it."""
        own = self.dataset in (None, self.spec.data.dataset)
        return (self._saved.get("data") if own else None) or self.splits.dataset.hash

    def backbone(self) -> nn.Module:
        """Return a fresh copy of its backbone, which sees all images of a batch on one device.

        Raises:
            UserError: The run has no such network, or the checkpoint holds another backbone.
        """
        state = self._saved[self.network]
        if state is None:
            raise UserError(f"run {self.run} has no {self.network} network of its own; evaluate its student.")
        use_whole_float32()
        spec = self.spec
        entry = backbone_named(spec.network.backbone)
        network = convert_norm(entry.network(*self.splits.train.shape[:2]), spec.norm.student_norm)
        load_backbone(network, state, spec.network.backbone, str(self._checkpoint))
        return network.to(distributed.device(), torch.float64 if spec.network.precision == "float64" else torch.float32)

    def classifier(self) -> nn.Sequential | None:
        """Return a fresh copy of its backbone and its classifier; ``None`` if it has none.

        Raises:
            UserError: See :meth:`backbone`.
        """
        spec, backbone = self.spec, self.backbone()
        method = spec.entry
        own = {name: value for name, value in self._saved[self.network].items() if not name.startswith(PREFIX)}
        if not (method.classifier and own):
            return None
        width = backbone_named(spec.network.backbone).measures(*self.splits.train.shape[:2]).features
        classes = len(self.splits.dataset.classes)
        heads = nn.Sequential(OrderedDict(method.parts().heads(spec.method, width, classes)))
        heads.load_state_dict(own)
        first = next(backbone.parameters())
        return nn.Sequential(backbone, heads.to(first.device, first.dtype))

    @cached_property
    def features(self) -> Features:
        """Its features, computed and stored at first use.

        Raises:
            UserError: See :meth:`backbone`.
            RunFailed: The run has collapsed.
        """
        where = features.path(self.folder, self.network, self.selection, self.dataset)
        if where.exists():
            result = features.read(where, self.run)
        else:
            result = features.compute(self.backbone(), self.splits, self.spec.network.precision)
            features.store(result, where, self.run)
        share = features.spread(result.train_ND)
        if share < COLLAPSED:
            raise RunFailed(
                f"collapsed: the features of different images differ by only {100 * share:.2g} % of their length"
            )
        return result


def splits_of(run: RunSpec, dataset: str | None, workspace: Workspace) -> Splits:
    """Return the images to evaluate a run on.

    From another data set than the run's, ``None``, these are all training images that are not held out, with the pixel
    statistics of the run's data set.

    Raises:
        UserError: The data set is missing, or its images have another number of channels.
    """
    if dataset in (None, run.data.dataset):
        own = data.load(run.data.dataset, workspace, run.data.image_size)
        return Splits(own, *label_sets.parts(own, run.data.images, run.data.held_out))
    mean, std = data.pixel_scale(run.data.dataset, workspace)
    other = data.load(dataset, workspace, data.size_of(dataset, run.data.image_size))
    channels = other.train.shape[0]
    if len(mean) != channels:
        raise UserError(
            f"run {run.key} was trained on images of {len(mean)} channels ({run.data.dataset}), and those of "
            f"{other.name} have {channels}; give a data set of {len(mean)}."
        )
    other = replace(other, mean=mean, std=std)
    return Splits(other, *label_sets.parts(other, None, run.data.held_out))


def sizes_of(splits: Splits) -> EvalSizes:
    """Return sizes for checks of evaluations."""
    labels, classes = splits.train.labels, len(splits.dataset.classes)
    several = labels.dim() == 2
    counts = labels.sum(0) if several else torch.bincount(labels, minlength=classes)
    return EvalSizes(splits.dataset.name, len(splits.train), classes, tuple(counts.tolist()), several)
