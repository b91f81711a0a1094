"""A finished run as evaluations see it: one of its networks at one of its selections, and the features it gives."""

from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eman.evaluation import features
from eman.evaluation.features import Features, Splits
from eman.platform import checkpoint
from eman.platform.errors import RunFailed, UserError
from eman.platform.workspace import Workspace
from eman.trainers import distributed
from eman.trainers.backbones.registry import PREFIX, backbone_named
from eman.trainers.backbones.state import load_backbone
from eman.trainers.data import catalog as data
from eman.trainers.data import label_sets
from eman.trainers.norm.convert import convert_norm
from eman.trainers.spec.run import RunSpec

#: Least :func:`~eman.evaluation.features.spread` of features that carry anything: bfloat16 rounds to about this.
COLLAPSED = 1e-3


@dataclass(frozen=True)
class Trained:
    """A run's network, read when first asked for and kept.

    Attributes:
        run: Key of the training.
        workspace: Where it keeps its files, and where data sets lie.
        network: ``"student"`` or ``"teacher"``.
        selection: ``"last"`` or ``"best"``.
        dataset: What it is evaluated on; ``None``: what it was trained on.
    """

    run: str
    workspace: Workspace
    network: str = "student"
    selection: str = "last"
    dataset: str | None = None

    @property
    def folder(self) -> Path:
        """Where the run keeps its files."""
        return self.workspace.run_folder(self.run)

    @property
    def available(self) -> bool:
        """Whether its networks are still there."""
        return self._checkpoint.exists()

    @property
    def _checkpoint(self) -> Path:
        return self.folder / f"{self.selection}.pt"

    @cached_property
    def _saved(self) -> dict[str, Any]:
        return checkpoint.load(self._checkpoint, self.run, fields=("spec", "student", "teacher"))

    @cached_property
    def spec(self) -> RunSpec:
        """Its specification."""
        return RunSpec.from_flat(self._saved["spec"])

    @cached_property
    def splits(self) -> Splits:
        """What it is evaluated on; of another data set than the run's, all training images that are not put aside,
        their pixels scaled as those that the run was trained on.

        Raises:
            UserError: They are not the images that the run was trained on, or have another number of channels.
        """
        spec = self.spec
        if self.dataset in (None, spec.data.dataset):
            own = data.load(spec.data.dataset, self.workspace, spec.data.image_size)
            own.must_be(self._saved.get("data"), self.run)
            return Splits(own, *label_sets.parts(own, spec.data.images, spec.data.held_out))
        mean, std = data.pixel_scale(spec.data.dataset, self.workspace)
        other = data.load(self.dataset, self.workspace, data.size_of(self.dataset, spec.data.image_size))
        channels = other.train.shape[0]
        if len(mean) != channels:
            raise UserError(
                f"run {self.run} was trained on images of {len(mean)} channels ({spec.data.dataset}), and those of "
                f"{other.name} have {channels}; give a data set of {len(mean)}."
            )
        other = replace(other, mean=mean, std=std)
        return Splits(other, *label_sets.parts(other, None, spec.data.held_out))

    def backbone(self) -> nn.Module:
        """A fresh copy of its backbone, all images of a batch on one device.

        Raises:
            UserError: The run has no such network, or the checkpoint holds another backbone.
        """
        state = self._saved[self.network]
        if state is None:
            raise UserError(f"run {self.run} has no {self.network} network of its own; evaluate its student.")
        spec = self.spec
        entry = backbone_named(spec.network.backbone)
        network = convert_norm(entry.build(self.splits.train.shape[0]), spec.norm.student_norm)
        load_backbone(network, state, spec.network.backbone, self._checkpoint)
        return network.to(distributed.device(), torch.float64 if spec.network.precision == "float64" else torch.float32)

    def classifier(self) -> nn.Sequential | None:
        """A fresh copy of its backbone and of what makes class logits of the features; ``None`` where the run does not
        end in a classifier, or was imported without.

        Raises:
            UserError: See :meth:`backbone`.
        """
        spec, backbone = self.spec, self.backbone()
        method = spec.entry
        own = {name: value for name, value in self._saved[self.network].items() if not name.startswith(PREFIX)}
        if not (method.classifier and own):
            return None
        width, classes = backbone_named(spec.network.backbone).features, len(self.splits.dataset.classes)
        heads = nn.Sequential(OrderedDict(method.parts().heads(spec.method, width, classes)))
        heads.load_state_dict(own)
        first = next(backbone.parameters())
        return nn.Sequential(backbone, heads.to(first.device, first.dtype))

    @cached_property
    def features(self) -> Features:
        """Its features: those that are kept, else computed, and kept.

        Raises:
            UserError: See :meth:`backbone`.
            RunFailed: The run has collapsed.
        """
        where = features.path(self.folder, self.network, self.selection, self.dataset)
        if where.exists():
            found = features.read(where, self.run)
        else:
            found = features.compute(self.backbone(), self.splits, self.spec.network.precision)
            features.store(found, where, self.run)
        share = features.spread(found.train_ND)
        if share < COLLAPSED:
            raise RunFailed(
                f"collapsed: all images give the same features, but for {100 * share:.2g} % of their length"
            )
        return found
