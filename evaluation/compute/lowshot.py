"""Low-shot classification on frozen features (Section 5.2, Table 5): linear SVMs on k images per class.

Five sets of k images per class; scikit-learn's linear SVM with cost C from 2^-5 to 2^5. The result is that of the C
with the best mean over sets on the held-out images (the test images if none are held out, as in the paper). Features
are scaled to length 1, as is usual for this protocol, so that one grid of C suits every network.

If images may have several classes (VOC2007), each class has its own SVM, trained on k images with the class and
(K - 1) k without, as in Goyal et al. (2019), and mean average precision over classes replaces accuracy.

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

#: Grid of C.
COSTS = tuple(2.0**power for power in range(-5, 6))

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

#: From the number of a label set and C to the scores on held-out and test images, in percent.
Score = Callable[[int, float], tuple[float, ...]]


def evaluate(specs: Sequence[LowShotSpec], trained: Trained, _seed: int) -> list[EvalOutcome]:
    """Return the outcome of each specification; see :func:`classify`."""
    return [classify(spec, trained.features) for spec in specs]


def classify(spec: LowShotSpec, features: Features, costs: tuple[float, ...] = COSTS) -> Measured:
    """Train and test SVMs on ``spec.shots`` images per class, over ``spec.label_sets`` sets.

    Args:
        spec: Number of shots and sets.
        features: Features with labels ``(N,)``, one class per image, or ``(N, K)``, one or zero for each class.
        costs: Grid of C.

    Returns:
        For example at 4 shots: ``lowshot/k4_top1``, accuracy on the test images in percent, mean over sets;
        ``lowshot/k4_std``, its sample standard deviation over sets; ``lowshot/k4_cost``, the selected C; and
        ``lowshot/k4_held_out_top1``, by which C was selected. For labels ``(N, K)`` ``map`` replaces ``top1``.

    Raises:
        UserError: A class has fewer images than shots.
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
        warnings.simplefilter("ignore", ConvergenceWarning)  # happens for large C on few samples
        # liblinear releases the GIL, so threads can use all cores of this process.
        run = Parallel(n_jobs=torch.get_num_threads(), prefer="threads")
        results = run(delayed(score)(*job) for job in jobs)
    return np.array(results).reshape(len(costs), sets, 2)


def _single_label(features: Features, shots: int) -> Score:
    from sklearn.svm import LinearSVC

    (train_ND, labels_N), *evaluated = _splits(features)

    def score(number: int, cost: float) -> tuple[float, ...]:
        index = label_sets.shots(features.train_labels_N, shots, number).numpy()
        classifier = LinearSVC(C=cost, random_state=number).fit(train_ND[index], labels_N[index])
        return tuple(100 * float((classifier.predict(x) == y).mean()) for x, y in evaluated)

    return score


def _multi_label(features: Features, shots: int) -> Score:
    from sklearn.svm import LinearSVC

    (train_ND, labels_NK), *evaluated = _splits(features)

    def score(number: int, cost: float) -> tuple[float, ...]:
        classifiers = [
            LinearSVC(C=cost, random_state=number).fit(train_ND[index], labels_NK[index, label])
            for label, index in enumerate(shots_of_several(features.train_labels_N, shots, number))
        ]
        return tuple(
            mean_average_precision(np.stack([each.decision_function(x) for each in classifiers], axis=1), y)
            for x, y in evaluated
        )

    return score


def _splits(features: Features) -> list[tuple[Floats, Integers]]:
    """Return features and labels of the training, the held-out and the test images."""
    f = features
    pairs = (f.train_ND, f.train_labels_N), (f.held_out_ND, f.held_out_labels_N), (f.test_ND, f.test_labels_N)
    return [(F.normalize(x_ND, dim=1).double().numpy(), labels_N.numpy()) for x_ND, labels_N in pairs]


def shots_of_several(labels_NK: Tensor, shots: int, number: int) -> list[Integers]:
    """Return for each class the indices of ``shots`` images with the class and ``(K - 1) shots`` without.

    Raises:
        UserError: Too few images have a class.
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
    """Return the mean over classes of average precision, in percent."""
    from sklearn.metrics import average_precision_score

    return 100 * float(np.mean([average_precision_score(y, s) for y, s in zip(labels_MK.T, scores_MK.T, strict=True)]))
