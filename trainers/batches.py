"""A run's data set, the images that it uses, and this worker's views of each step's batch.

Shapes: N images of this worker's batch, P crops of each, A channels, H by W pixels.
"""

from dataclasses import replace

import torch
from torch import Tensor

from eman.platform.errors import UserError
from eman.platform.workspace import Workspace
from eman.trainers import distributed
from eman.trainers.data import catalog, label_sets
from eman.trainers.data.loader import Loader, Recipe
from eman.trainers.data.order import Stream
from eman.trainers.data.splits import AnySplit, Split, joined
from eman.trainers.spec.method import LabelledSection
from eman.trainers.spec.run import RunSpec
from eman.trainers.views import transforms
from eman.trainers.views.draws import Draws
from eman.trainers.views.views import VIEWS


class Batches:
    """A run's data set, and this worker's share of every batch as a function of the step.

    Args:
        spec: The run.
        workspace: Location of data sets.
        device: Device on which views are made.
        dtype: Data type of the views.

    Attributes:
        dataset: The whole data set.
        train: The training images that the run uses.
        held_out: The held-out images; the test images if the run holds out none.
        labelled: int64, indices of the labelled images in ``train``; ``None`` for a method without labels.
        streams: Streams of images by name.
        feeds: Loaders by stream, for streams that are not in memory; each is created at first use.
        steps_per_epoch: Steps per pass over the last stream.

    Raises:
        UserError: The data set is missing, or has fewer unlabelled images than a batch.
    """

    def __init__(self, spec: RunSpec, workspace: Workspace, device: torch.device, dtype: torch.dtype) -> None:
        self.spec, self.workspace, self.device, self.dtype = spec, workspace, device, dtype
        self.method = spec.entry
        self.dataset = catalog.load(spec.data.dataset, workspace, spec.data.image_size)
        self.train, self.held_out = label_sets.parts(self.dataset, spec.data.images, spec.data.held_out)
        self.labelled = self._labelled()
        splits, sizes = self._splits(), spec.method.batches()
        if "unlabelled" in sizes and len(splits["unlabelled"]) < sizes["unlabelled"]:
            raise UserError(
                f"batch is {sizes['unlabelled']}, and there are {len(splits['unlabelled'])} unlabelled images; give a "
                f"smaller batch or more images."
            )
        self.streams = {
            name: Stream(splits[name], sizes[name], spec.seed, number, spec.norm.devices)
            for number, name in enumerate(self.method.streams)
        }
        last = self.streams[self.method.streams[-1]]
        self.steps_per_epoch = max(1, len(last.split) // last.batch)
        self.feeds: dict[str, Loader] = {}

    def _labelled(self) -> Tensor | None:
        method = self.spec.method
        if not isinstance(method, LabelledSection):
            return None
        if method.label_index is None:
            return label_sets.label_set(self.train.labels, method.label_fraction, method.label_set)
        return label_sets.indexed(self.spec.data.dataset, method.label_index, self.train, self.workspace)

    def _splits(self) -> dict[str, AnySplit]:
        """Return the images of each stream. Unlabelled are those without a label (Section 5.1)."""
        if self.labelled is None:
            return {"unlabelled": joined(self.train, self.dataset.unlabelled)}
        rest = torch.ones(len(self.train), dtype=torch.bool)
        rest[self.labelled] = False
        return {
            "labelled": self.train.take(self.labelled),
            "unlabelled": joined(self.train.take(rest.nonzero()[:, 0]), self.dataset.unlabelled),
        }

    def at(self, step: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return a step's views by name, each ``(N, A, H, W)``, and the labels of each stream, ``(N,)``."""
        options = self.spec.method.view_options()
        batches, labels = {}, {}
        for name, stream in self.streams.items():
            images_PNAHW, index_N, epoch_N = self._images(name, step)
            batches[name] = (images_PNAHW, epoch_N.to(self.device), stream.split.ids[index_N].to(self.device))
            labels[name] = stream.split.labels[index_N].to(self.device)
        views, used = {}, dict.fromkeys(self.streams, 0)
        for number, (view, (name, change)) in enumerate(self.method.views.items()):
            images_PNAHW, epoch_N, ids_N = batches[name]
            cropped = self.streams[name].split.cropped
            x_NAHW = images_PNAHW[used[name] if cropped else 0].to(self.device).float().div_(255)
            used[name] += 1
            draws = Draws(self.spec.seed, epoch_N, ids_N, number)
            changed_NAHW = VIEWS[change](x_NAHW, draws, replace(options, cropped=cropped))
            views[view] = transforms.normalize(changed_NAHW, self.dataset.mean, self.dataset.std).to(self.dtype)
        return views, labels

    def _images(self, name: str, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return this worker's images of a stream's batch, uint8, ``(P, N, A, H, W)``; their indices in the split,
        ``(N,)``; and their epochs, ``(N,)``. P is the number of views if the loader crops, else 1.
        """
        stream = self.streams[name]
        mine = distributed.positions(stream.batch, self.spec.norm.devices)
        if isinstance(stream.split, Split):
            index_N, epoch_N = (x[mine] for x in stream.at(step))
            return stream.split.images[index_N].unsqueeze(0), index_N, epoch_N
        if name not in self.feeds:
            views = tuple(n for n, (source, _) in enumerate(self.method.views.values()) if source == name)
            recipe = Recipe(stream, mine, views, self.spec.seed, self.spec.method.crop_min)
            steps = max(self.steps_per_epoch * self.spec.optim.epochs, self.spec.norm.statistics_passes)
            settings = self.workspace.settings
            self.feeds[name] = Loader(recipe, steps, settings.most_corrupt, settings.loader_processes)
        return self.feeds[name].at(step)

    def close(self) -> None:
        """Stop the loaders."""
        for feed in self.feeds.values():
            feed.close()
