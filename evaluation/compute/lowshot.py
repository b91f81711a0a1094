"""Low-shot classification on frozen features (Section 5.2, Table 5): linear SVMs on k images a class.

Five sets of k images a class; scikit-learn's linear SVM with the cost C from 2^-5 to 2^5. The C whose mean over the
sets is best on the held-out images gives the result (on the test images where nothing is held out, as in the paper).
Features are scaled to length 1, as is usual for this protocol, so that one grid of C suits every network.

Where an image may have several classes (VOC2007), each class has an SVM of its own, trained on k images that show it
and (K - 1) k that do not, as in Goyal et al. (2019), and mean average precision over classes replaces accuracy.

Shapes: N training samples, M samples of another split, D features, S sets, K classes, C costs.
"""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from eman.evaluation.features import Features
from eman.evaluation.protocols.lowshot import LowShotSpec
from eman.evaluation.protocols.protocol import EvalOutcome, Measured
from eman.evaluation.trained import Trained
from eman.platform.errors import UserError
from eman.trainers.data import label_sets

#: C of the grid.
COSTS = tuple(2.0**power for power in range(-5, 6))

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

#: From the number of a label set and a cost to the scores on the held-out and on the test images, in percent.
Score = Callable[[int, float], tuple[float, float]]


def evaluate(specs: Sequence[LowShotSpec], trained: Trained, _seed: int) -> list[EvalOutcome]:
    """Return the results of a run; see :func:`classify`."""
    return [classify(spec, trained.features) for spec in specs]


def classify(spec: LowShotSpec, features: Features, costs: tuple[float, ...] = COSTS) -> Measured:
    """Return the result at ``spec.shots`` images a class, over ``spec.label_sets`` sets.

    Labels are ``(N,)``, one class an image, or ``(N, K)``, 1 for each class that an image shows and 0 for the others.

    Returns:
        ``lowshot/k4_top1`` (of 4 shots) on the test images in percent, mean over sets; ``lowshot/k4_std``, its sample
        standard deviation over them; ``lowshot/k4_cost``, the chosen C; ``lowshot/k4_held_out_top1``, by which it was
        chosen. With several classes an image ``map`` replaces ``top1``.

    Raises:
        UserError: A class has fewer images.
    """
    several = features.train_labels_N.dim() == 2
    score = _multi_label(features, spec.shots) if several else _single_label(features, spec.shots)
    grid_CS2 = _grid(score, costs, spec.label_sets)
    best = int(grid_CS2[:, :, 0].mean(1).argmax())
    held_out_S, test_S = grid_CS2[best, :, 0], grid_CS2[best, :, 1]
    name, prefix = "map" if several else "top1", f"lowshot/k{spec.shots}_"
    metrics = {
        f"{prefix}{name}": float(test_S.mean()),
        f"{prefix}std": float(test_S.std(ddof=1)) if spec.label_sets > 1 else 0.0,
        f"{prefix}cost": costs[best],
        f"{prefix}held_out_{name}": float(held_out_S.mean()),
    }
    return Measured(metrics, f"{prefix}held_out_{name}")


def _grid(score: Score, costs: tuple[float, ...], sets: int) -> Floats:
    """Return the scores of all costs and label sets, ``(C, S, 2)``."""
    from joblib import Parallel, delayed
    from sklearn.exceptions import ConvergenceWarning

    jobs = [(number, cost) for cost in costs for number in range(sets)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # large C on few samples; the accuracy stands
        # liblinear releases the interpreter's lock, so threads use all the cores that this process may use.
        run = Parallel(n_jobs=torch.get_num_threads(), prefer="threads")
        results = run(delayed(score)(*job) for job in jobs)
    return np.array(results).reshape(len(costs), sets, 2)


def _single_label(features: Features, shots: int) -> Score:
    from sklearn.svm import LinearSVC

    train_ND, labels_N = _unit(features.train_ND), features.train_labels_N.numpy()
    others = _others(features)

    def score(number: int, cost: float) -> tuple[float, float]:
        index = label_sets.shots(features.train_labels_N, shots, number).numpy()
        classifier = LinearSVC(C=cost, random_state=number).fit(train_ND[index], labels_N[index])
        held_out, test = (100 * float((classifier.predict(x) == y).mean()) for x, y in others)
        return held_out, test

    return score


def _multi_label(features: Features, shots: int) -> Score:
    from sklearn.svm import LinearSVC

    train_ND, labels_NK = _unit(features.train_ND), features.train_labels_N.numpy()
    others = _others(features)

    def score(number: int, cost: float) -> tuple[float, float]:
        scores = []
        for label, index in enumerate(shots_of_several(features.train_labels_N, shots, number)):
            classifier = LinearSVC(C=cost, random_state=number).fit(train_ND[index], labels_NK[index, label])
            scores.append([classifier.decision_function(x) for x, _ in others])
        held_out, test = (
            mean_average_precision(np.stack(part, axis=1), y)
            for part, (_, y) in zip(zip(*scores, strict=True), others, strict=True)
        )
        return held_out, test

    return score


def _others(features: Features) -> tuple[tuple[Floats, Integers], ...]:
    """Return features and labels of the held-out and of the test images."""
    return (
        (_unit(features.held_out_ND), features.held_out_labels_N.numpy()),
        (_unit(features.test_ND), features.test_labels_N.numpy()),
    )


def _unit(x_ND: Tensor) -> Floats:
    return F.normalize(x_ND, dim=1).double().numpy()


def shots_of_several(labels_NK: Tensor, shots: int, number: int) -> list[Integers]:
    """Return for each class the places of ``shots`` images that show it and ``(K - 1) shots`` that do not.

    Raises:
        UserError: Too few images show a class.
    """
    classes = labels_NK.shape[1]
    generator = torch.Generator().manual_seed(3_000 + number)
    index = []
    for label in range(classes):
        parts = []
        for value, count in ((1, shots), (0, (classes - 1) * shots)):
            places = (labels_NK[:, label] == value).nonzero()[:, 0]
            if value and len(places) < count:
                raise UserError(f"{count} images of class {label} were asked for, and there are {len(places)}.")
            parts.append(places[torch.randperm(len(places), generator=generator)[:count]])
        index.append(torch.cat(parts).sort().values.numpy())
    return index


def mean_average_precision(scores_MK: Floats, labels_MK: Integers) -> float:
    """Return the mean over classes of the area under the precision-recall steps, in percent."""
    from sklearn.metrics import average_precision_score

    return 100 * float(np.mean([average_precision_score(y, s) for y, s in zip(labels_MK.T, scores_MK.T, strict=True)]))
