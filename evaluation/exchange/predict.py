"""Predictions of a finished run for image files.

A run that ends in a classifier gives probabilities; of any other the nearest training images vote.

Shapes: N training images, M images, K classes, A channels, H by W pixels.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from eman.evaluation import features
from eman.evaluation.compute import knn
from eman.evaluation.exchange.pictures import fit_picture, open_picture
from eman.evaluation.exchange.predictions import Guess, Neighbour, Prediction, Predictions
from eman.evaluation.trained import Trained
from eman.platform.errors import RunFailed, UserError
from eman.platform.store.records import Record
from eman.platform.workspace import Workspace
from eman.trainers.data.splits import Split


def predict(
    record: Record,
    workspace: Workspace,
    paths: Sequence[Path],
    *,
    network: str = "student",
    selection: str = "last",
    k: int = 20,
) -> Predictions:
    """Return a run's answers for images.

    Args:
        record: The finished run.
        workspace: Location of its networks and data.
        paths: Files that Pillow reads, of any size and mode.
        network: Which of its networks.
        selection: After which epoch.
        k: Neighbours that vote, if the run does not end in a classifier.

    Raises:
        UserError: A file is not an image, the run has no such network, its data set is missing, or ``k`` is too large.
    """
    opened = [open_picture(path) for path in paths]
    trained = Trained(record.key, workspace, network, selection)
    split = trained.splits.dataset.test
    fitted = [fit_picture(picture, split) for picture in opened]
    images_MAHW = torch.stack([image for image, _ in fitted])
    changes = [made for _, made in fitted]
    classifier = trained.classifier()
    if classifier is None:
        answers = _by_neighbours(trained, images_MAHW, k)
    else:
        answers = [(guesses, ()) for guesses in _by_classifier(trained, classifier, images_MAHW)]
    predictions = tuple(
        Prediction(str(path), made, *answer) for path, made, answer in zip(paths, changes, answers, strict=True)
    )
    votes = k if classifier is None else None
    return Predictions(record, network, selection, trained.spec.data.dataset, votes, predictions)


def _outputs(trained: Trained, network: torch.nn.Module, images_MAHW: Tensor) -> Tensor:
    """Return a network's outputs, computed as in evaluations."""
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
        raise UserError(f"run {trained.run} has collapsed features and cannot classify images ({error}).") from error
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
    """Return all classes, the largest share first; a tie goes to the smallest class."""
    order = shares_K.argsort(descending=True, stable=True).tolist()
    return tuple(Guess(classes[n], float(shares_K[n])) for n in order)
