"""A run's data set, the images that it uses, and this worker's views of each step's batch.

Shapes: N images of this worker's batch, P crops of each, A channels, H by W pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from eman.platform.errors import UserError
from eman.platform.workspace import Workspace
from eman.trainers import distributed
from eman.trainers.data import catalog, label_sets
from eman.trainers.data.loader import Loader, Recipe
from eman.trainers.data.order import Stream
from eman.trainers.data.splits import AnySplit, Split, joined
from eman.trainers.spec.method import LabelledSection, SemiSupervisedSection
from eman.trainers.spec.run import RunSpec
from eman.trainers.views import transforms
from eman.trainers.views.draws import Draws
from eman.trainers.views.views import VIEWS


@dataclass(frozen=True)
class Samples:
    """A worker's samples of one stream's batch, on its device.

    Attributes:
        place_2N: int64, ``(2, N)``: the samples' indices in the split, and their epochs.
        images_PNAHW: uint8, decoded images; ``None`` if the split is in memory. P is the number of views if the loader
            crops, else 1.
    """

    place_2N: Tensor
    images_PNAHW: Tensor | None


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
        self._mine = {
            name: distributed.positions(stream.batch, spec.norm.devices) for name, stream in self.streams.items()
        }
        self._labels = {name: stream.split.labels.to(device) for name, stream in self.streams.items()}
        self._ids = {name: stream.split.ids.to(device) for name, stream in self.streams.items()}
        self._images = {
            name: stream.split.images.to(device)
            for name, stream in self.streams.items()
            if isinstance(stream.split, Split) and _fits(stream.split.images, device)
        }

    def _labelled(self) -> Tensor | None:
        method = self.spec.method
        if not isinstance(method, LabelledSection):
            return None
        if method.label_index is None:
            fraction = method.labelled_fraction(len(self.train))
            return label_sets.label_set(self.train.labels, fraction, method.label_set, method.label_sampling)
        return label_sets.indexed(self.spec.data.dataset, method.label_index, self.train, self.workspace)

    def _splits(self) -> dict[str, AnySplit]:
        """Return the images of each stream. Unlabelled are those without a label (Section 5.1), or all."""
        if self.labelled is None:
            return {"unlabelled": joined(self.train, self.dataset.unlabelled)}
        rest = torch.ones(len(self.train), dtype=torch.bool)
        method = self.spec.method
        rest[self.labelled] = isinstance(method, SemiSupervisedSection) and method.reuse_labelled
        return {
            "labelled": self.train.take(self.labelled),
            "unlabelled": joined(self.train.take(rest.nonzero()[:, 0]), self.dataset.unlabelled),
        }

    def at(self, step: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return :meth:`views` of :meth:`samples`."""
        return self.views(self.samples(step))

    def samples(self, step: int) -> dict[str, Samples]:
        """Return this worker's samples of a step's batch by stream."""
        return {name: self._samples(name, step) for name in self.streams}

    def _samples(self, name: str, step: int) -> Samples:
        stream, images_PNAHW = self.streams[name], None
        if isinstance(stream.split, Split):
            place_2N = torch.stack(stream.at(step))[:, self._mine[name]]
            if name not in self._images:
                images_PNAHW = stream.split.images[place_2N[0]].unsqueeze(0)
        else:
            images_PNAHW, *places = self._feed(name, stream).at(step)
            place_2N = torch.stack(places)
        return Samples(self._send(place_2N), None if images_PNAHW is None else self._send(images_PNAHW))

    def _send(self, x: Tensor) -> Tensor:
        """Copy a tensor to the device; to a GPU from pinned memory, so that the copy does not wait for it."""
        return x if self.device.type == "cpu" else x.pin_memory().to(self.device, non_blocking=True)

    def _feed(self, name: str, stream: Stream) -> Loader:
        """Return the loader of a stream whose images are not in memory."""
        if name not in self.feeds:
            views = tuple(n for n, (source, _) in enumerate(self.method.views.values()) if source == name)
            recipe = Recipe(stream, self._mine[name], views, self.spec.seed, self.spec.method.crop_min)
            steps = max(self.steps_per_epoch * self.spec.optim.epochs, self.spec.norm.statistics_passes)
            settings = self.workspace.settings
            self.feeds[name] = Loader(recipe, steps, settings.most_corrupt, settings.loader_processes)
        return self.feeds[name]

    def views(self, samples: Mapping[str, Samples]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return views by name, each ``(N, A, H, W)``, and the labels of each stream, ``(N,)``.

        A function of the samples only, computed on the device without waiting for it.
        """
        options = self.spec.method.view_options()
        views, used = {}, dict.fromkeys(self.streams, 0)
        images = {
            name: self._images[name][of_stream.place_2N[0]].unsqueeze(0)
            if of_stream.images_PNAHW is None
            else of_stream.images_PNAHW
            for name, of_stream in samples.items()
        }
        for number, (view, (name, change)) in enumerate(self.method.views.items()):
            cropped = self.streams[name].split.cropped
            x_NAHW = images[name][used[name] if cropped else 0].float().div_(255)
            used[name] += 1
            index_N, epoch_N = samples[name].place_2N
            draws = Draws(self.spec.seed, epoch_N, self._ids[name][index_N], number)
            augment = VIEWS[change] if isinstance(change, str) else change
            changed_NAHW = augment(x_NAHW, draws, replace(options, cropped=cropped))
            views[view] = transforms.normalize(changed_NAHW, self.dataset.mean, self.dataset.std).to(self.dtype)
        return views, {name: self._labels[name][of_stream.place_2N[0]] for name, of_stream in samples.items()}

    def close(self) -> None:
        """Stop the loaders."""
        for feed in self.feeds.values():
            feed.close()


#: Largest share of a GPU's memory that the images of a stream may take to be kept there.
_SHARE_OF_GPU = 1 / 16


def _fits(images: Tensor, device: torch.device) -> bool:
    """Return whether images in memory are kept on the device."""
    if device.type == "cpu":
        return True
    return images.nbytes <= _SHARE_OF_GPU * torch.cuda.get_device_properties(device).total_memory
