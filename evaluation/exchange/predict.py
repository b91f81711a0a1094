"""Predictions of a finished run for image files.

A classifier gives probabilities; for other runs, the nearest training images vote.

Shapes: N training images, M images, K classes, A channels, H by W pixels.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from eman.evaluation import features
from eman.evaluation.compute import knn
from eman.evaluation.exchange.pictures import fit_picture, open_picture
from eman.evaluation.trained import Trained
from eman.platform.errors import RunFailed, UserError
from eman.platform.store.records import Record
from eman.platform.workspace import Workspace
from eman.trainers.data.splits import Split


@dataclass(frozen=True)
class Guess:
    """A class and its weight: a probability, or a share of the votes."""

    label: str
    share: float


@dataclass(frozen=True)
class Neighbour:
    """A training image: its index in the training split, its classes, and its cosine similarity."""

    index: int
    label: str
    similarity: float


@dataclass(frozen=True)
class Prediction:
    """The prediction for one file: changes to the image, all classes by weight, and the neighbours that voted."""

    image: str
    changes: tuple[str, ...]
    guesses: tuple[Guess, ...]
    neighbours: tuple[Neighbour, ...] = ()


@dataclass(frozen=True)
class Predictions:
    """Predictions of a run's network for some images; ``votes`` is ``None`` for a classifier."""

    run: Record
    network: str
    selection: str
    dataset: str
    votes: int | None
    images: tuple[Prediction, ...]

    def lines(self, top: int) -> list[str]:
        """Return lines to print, with at most ``top`` classes and neighbours per image."""
        how = "probabilities" if self.votes is None else f"votes of the {self.votes} nearest training images"
        title = f"{self.run.name} ({self.run.key[:8]}): the {self.network} after the {self.selection} epoch"
        lines = [f"{title}, {how} ({self.dataset})"]
        for one in self.images:
            lines.append(f"{one.image}  ({', '.join(one.changes)})" if one.changes else one.image)
            guesses = one.guesses[:top]
            width = max(len(guess.label) for guess in guesses)
            for guess in guesses:
                percent, votes = f"{100 * guess.share:5.1f} %", f"{guess.share * (self.votes or 0):3.0f} votes"
                lines.append(f"  {guess.label:<{width}}  {percent if self.votes is None else votes}")
            nearest = [f"#{n.index} {n.label} {n.similarity:.3f}" for n in one.neighbours[:top]]
            lines += [f"  nearest: {', '.join(nearest)}"] if nearest else []
        return lines

    def content(self, top: int) -> dict[str, Any]:
        """Return the content of `lines` as plain values."""
        shown = [replace(one, guesses=one.guesses[:top], neighbours=one.neighbours[:top]) for one in self.images]
        own = {name: getattr(self, name) for name in ("network", "selection", "dataset", "votes")}
        return {"run": self.run.key, "name": self.run.name, **own, "images": [asdict(one) for one in shown]}


def predict(
    record: Record,
    workspace: Workspace,
    paths: Sequence[Path],
    *,
    network: str = "student",
    selection: str = "last",
    k: int = 20,
) -> Predictions:
    """Return a finished run's predictions for images: files that Pillow reads, of any size and mode.

    ``k`` is the number of neighbours that vote, unless the run has a classifier.

    Raises:
        UserError: A file is not an image, the run has no such network, its data set is missing, or ``k`` is too large.
    """
    opened = [open_picture(path) for path in paths]
    trained = Trained(record.key, workspace, network, selection)
    splits, classifier = trained.splits, trained.classifier()
    fitted = [fit_picture(picture, splits.dataset.test) for picture in opened]
    index = torch.arange(len(fitted))
    images = Split(torch.stack([image for image, _ in fitted]), torch.zeros_like(index), index)
    precision = trained.spec.network.precision
    output_MX = features.outputs(classifier or trained.backbone(), images, splits.dataset, precision)
    neighbours: list[tuple[Neighbour, ...]] = [()] * len(paths)
    if classifier is None:
        guesses, neighbours = _vote(trained, output_MX, k)
    else:
        guesses = [_guesses(shares_K, splits.dataset.classes) for shares_K in output_MX.softmax(1)]
    predictions = tuple(
        Prediction(str(path), changes, classes, nearest)
        for path, (_, changes), classes, nearest in zip(paths, fitted, guesses, neighbours, strict=True)
    )
    votes = k if classifier is None else None
    return Predictions(record, network, selection, trained.spec.data.dataset, votes, predictions)


def _vote(trained: Trained, features_MD: Tensor, k: int) -> tuple[list[tuple[Guess, ...]], list[tuple[Neighbour, ...]]]:
    """Return classes by votes, and the neighbours, of each image."""
    try:
        bank = trained.features
    except RunFailed as error:
        raise UserError(f"run {trained.run} has collapsed features and cannot classify images ({error}).") from error
    classes, labels_N, ids_N = trained.splits.dataset.classes, bank.train_labels_N, trained.splits.train.ids
    shown_NK = labels_N if labels_N.dim() == 2 else F.one_hot(labels_N, len(classes))
    cosine_Mk, index_Mk = knn.neighbours(bank.train_ND, features_MD, k)
    guesses = [_guesses(shown_NK[index_k].double().mean(0), classes) for index_k in index_Mk]
    neighbours = [
        tuple(
            Neighbour(int(ids_N[n]), ", ".join(classes[c] for c in shown_NK[n].nonzero()[:, 0].tolist()), cosine)
            for n, cosine in zip(index_k.tolist(), cosine_k.tolist(), strict=True)
        )
        for cosine_k, index_k in zip(cosine_Mk, index_Mk, strict=True)
    ]
    return [tuple(guess for guess in one if guess.share > 0) for one in guesses], neighbours


def _guesses(shares_K: Tensor, classes: Sequence[str]) -> tuple[Guess, ...]:
    """Return all classes, the largest share first; ties go to the smallest class."""
    order = shares_K.argsort(descending=True, stable=True).tolist()
    return tuple(Guess(classes[n], float(shares_K[n])) for n in order)
