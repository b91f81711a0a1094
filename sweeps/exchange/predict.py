"""``eman predict``: what a finished run makes of images of one's own.

A run that ends in a classifier gives probabilities; any other shows which training images are nearest by its features,
and how these vote.

Shapes: N training images, M images, K classes, A channels, H by W pixels.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eman.evaluation import features
from eman.evaluation.compute import knn
from eman.evaluation.trained import Trained
from eman.platform.errors import RunFailed, UserError
from eman.platform.store.records import Record
from eman.platform.workspace import Workspace
from eman.trainers.data.decode import middle_crop
from eman.trainers.data.splits import AnySplit, Split


@dataclass(frozen=True)
class Guess:
    """A class with its weight: a probability, or a share of the votes."""

    label: str
    share: float


@dataclass(frozen=True)
class Neighbour:
    """A training image: its number in the data set's training split, its classes, the cosine to the image asked for."""

    index: int
    label: str
    similarity: float


@dataclass(frozen=True)
class Prediction:
    """What a run makes of an image.

    Attributes:
        image: The file.
        changes: What was done to it before the network saw it.
        guesses: Classes, the likeliest first.
        neighbours: The nearest training images, where these vote.
    """

    image: str
    changes: tuple[str, ...]
    guesses: tuple[Guess, ...]
    neighbours: tuple[Neighbour, ...] = ()


@dataclass(frozen=True)
class Predictions:
    """Predictions of a run for some images.

    Attributes:
        run: Its record in the store.
        network, selection: Which of its networks.
        dataset: What it was trained on.
        votes: Number of neighbours that vote; ``None``: a classifier answers.
        images: One prediction each.
    """

    run: Record
    network: str
    selection: str
    dataset: str
    votes: int | None
    images: tuple[Prediction, ...]

    def lines(self, top: int) -> list[str]:
        """For a person; at most ``top`` classes, and neighbours, of each image."""
        how = "probabilities" if self.votes is None else f"votes of the {self.votes} nearest training images"
        lines = [
            f"{self.run.name} ({self.run.key[:8]}): the {self.network} after the {self.selection} epoch, {how} "
            f"({self.dataset})"
        ]
        for found in self.images:
            changes = f"  ({', '.join(found.changes)})" if found.changes else ""
            lines.append(f"{found.image}{changes}")
            guesses = found.guesses[:top]
            width = max(len(guess.label) for guess in guesses)
            for guess in guesses:
                share = (
                    f"{100 * guess.share:5.1f} %" if self.votes is None else f"{guess.share * self.votes:3.0f} votes"
                )
                lines.append(f"  {guess.label:<{width}}  {share}")
            nearest = [f"#{n.index} {n.label} {n.similarity:.3f}" for n in found.neighbours[:top]]
            lines += [f"  nearest: {', '.join(nearest)}"] if nearest else []
        return lines

    def content(self, top: int) -> dict[str, Any]:
        """The same for programs."""
        weight = "probability" if self.votes is None else "vote_share"
        images = [
            {
                "image": found.image,
                "changes": list(found.changes),
                "classes": [{"class": guess.label, weight: guess.share} for guess in found.guesses[:top]],
            }
            | (
                {}
                if self.votes is None
                else {
                    "neighbours": [
                        {"index": n.index, "class": n.label, "similarity": n.similarity} for n in found.neighbours[:top]
                    ]
                }
            )
            for found in self.images
        ]
        return {
            "run": self.run.key,
            "name": self.run.name,
            "network": self.network,
            "selection": self.selection,
            "dataset": self.dataset,
            "votes": self.votes,
            "images": images,
        }


def predict(
    record: Record,
    workspace: Workspace,
    paths: Sequence[Path],
    *,
    network: str = "student",
    selection: str = "last",
    k: int = 20,
) -> Predictions:
    """What a run makes of images.

    Args:
        record: The finished run.
        workspace: Where its networks and data lie.
        paths: Files that Pillow reads, of any size and mode.
        network: Which of its networks.
        selection: After which epoch.
        k: Neighbours that vote, where the run does not classify by itself.

    Raises:
        UserError: A file is no image, the run has no such network, its data set is not here, or ``k`` is too large.
    """
    opened = [_open(path) for path in paths]
    trained = Trained(record.key, workspace, network, selection)
    split = trained.splits.dataset.test
    fitted = [_fit(picture, split) for picture in opened]
    images_MAHW = torch.stack([image for image, _ in fitted])
    changes = [found for _, found in fitted]
    classifier = trained.classifier()
    if classifier is None:
        found = _by_neighbours(trained, images_MAHW, k)
    else:
        found = [(guesses, ()) for guesses in _by_classifier(trained, classifier, images_MAHW)]
    predictions = tuple(
        Prediction(str(path), did, *answer) for path, did, answer in zip(paths, changes, found, strict=True)
    )
    votes = k if classifier is None else None
    return Predictions(record, network, selection, trained.spec.data.dataset, votes, predictions)


def _outputs(trained: Trained, network: torch.nn.Module, images_MAHW: Tensor) -> Tensor:
    """What a network gives, as evaluations compute it."""
    index = torch.arange(len(images_MAHW))
    split = Split(images_MAHW, torch.zeros_like(index), index)
    return features.outputs(network, split, trained.splits.dataset, trained.spec.network.precision)


def _by_classifier(trained: Trained, network: torch.nn.Module, images_MAHW: Tensor) -> list[tuple[Guess, ...]]:
    shares_MK = _outputs(trained, network, images_MAHW).softmax(1)
    return [_guesses(shares_K, trained.splits.dataset.classes) for shares_K in shares_MK]


def _by_neighbours(
    trained: Trained, images_MAHW: Tensor, k: int
) -> list[tuple[tuple[Guess, ...], tuple[Neighbour, ...]]]:
    try:
        bank = trained.features
    except RunFailed as error:
        raise UserError(f"run {trained.run} tells nothing of images: {error}.") from error
    classes, labels_N = trained.splits.dataset.classes, bank.train_labels_N
    shown_NK = labels_N if labels_N.dim() == 2 else F.one_hot(labels_N, len(classes))
    cosine_Mk, index_Mk = knn.neighbours(bank.train_ND, _outputs(trained, trained.backbone(), images_MAHW), k)
    ids_N = trained.splits.train.ids

    def label(place: int) -> str:
        return ", ".join(classes[n] for n in shown_NK[place].nonzero()[:, 0].tolist())

    return [
        (
            tuple(guess for guess in _guesses(shown_NK[places].double().mean(0), classes) if guess.share > 0),
            tuple(
                Neighbour(int(ids_N[place]), label(place), cosine)
                for place, cosine in zip(places.tolist(), cosines.tolist(), strict=True)
            ),
        )
        for cosines, places in zip(cosine_Mk, index_Mk, strict=True)
    ]


def _guesses(shares_K: Tensor, classes: Sequence[str]) -> tuple[Guess, ...]:
    """The largest share first; a tie goes to the smallest class."""
    order = shares_K.argsort(descending=True, stable=True).tolist()
    return tuple(Guess(classes[n], float(shares_K[n])) for n in order)


def _open(path: Path) -> Any:
    """A picture, upright.

    Raises:
        UserError: There is no such file, or it is no picture.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an image that is too large to be one
            with Image.open(path) as image:
                return ImageOps.exif_transpose(image)
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"there is no file {path}; give images, for example PNG or JPEG.") from None
    except Exception as error:  # Pillow raises many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise UserError(f"{path} cannot be read as an image ({reason}); give PNG, JPEG or the like.") from error


def _fit(picture: Any, split: AnySplit) -> tuple[Tensor, tuple[str, ...]]:
    """A picture as the images of a split are, uint8, ``(A, H, W)``, and what was done to it."""
    from PIL import Image, ImageOps

    channels, height, width = split.shape
    changes = []
    deep = np.asarray(picture) if picture.mode.startswith("I") else None
    if deep is not None:  # 16 bits a pixel, which Pillow would clip
        picture = Image.fromarray((deep / 257).clip(0, 255).astype(np.uint8))
        changes.append("16 bits to 8")
    mode = {1: "L", 3: "RGB"}[channels]
    if picture.has_transparency_data:
        changes.append("transparency dropped")
    if picture.mode != mode and not (channels == 3 and picture.mode in ("RGBA", "P")):
        changes.append("made grayscale" if channels == 1 else f"from {picture.mode} to {mode}")
    picture = picture.convert(mode)
    if picture.size != (width, height):
        square = picture.width * height == picture.height * width
        part = "" if square else ", the middle of it"
        changes.append(f"resized from {picture.width} x {picture.height}{part}")
        if split.cropped:  # as evaluations see the set's own images
            picture = middle_crop(picture, height)
        else:
            picture = ImageOps.fit(picture, (width, height), Image.Resampling.BILINEAR)
    array = np.asarray(picture)
    array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return torch.from_numpy(array.copy()), tuple(changes)
