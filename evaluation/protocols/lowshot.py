"""Low-shot classification on frozen features (Section 5.2, Table 5): linear SVMs on k images a class.

Five sets of k images a class; scikit-learn's linear SVM with the cost C from 2^-5 to 2^5; the C whose mean over the
sets is best on the held-out images gives the result (on the test images themselves where nothing is put aside, as in
the paper). Features are scaled to length 1, as is usual for this protocol, so that one grid of C suits every network.

Where an image may have several classes at once (VOC2007), each class has its own SVM, on k images that show it and
(K - 1) k that do not, as in Goyal et al. (2019), and the mean over classes of the average precision takes the place of
accuracy.

Shapes: N training samples, M samples of another split, D features, S sets, K classes.
"""

import warnings
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eman.evaluation.features import Features
from eman.platform.errors import UserError
from eman.trainers.data import subsets
from eman.trainers.spec.run import EvalSpec

#: C of the grid.
COSTS = tuple(2.0**power for power in range(-5, 6))


def evaluate(spec: EvalSpec, found: Features, costs: tuple[float, ...] = COSTS) -> dict[str, float]:
    """The result at ``spec.shots`` images a class, over ``spec.label_sets`` sets.

    Labels are ``(N,)``, one class an image, or ``(N, K)``, 1 for each class that an image shows and 0 for the others.

    Returns:
        ``lowshot/k4_top1`` (of 4 shots) on the test images in percent, mean over sets; ``lowshot/k4_std``, its sample
        standard deviation over them; ``lowshot/k4_cost``, the chosen C; ``lowshot/k4_held_out_top1``, by which. With
        several classes an image, ``map`` stands in place of ``top1``.

    Raises:
        UserError: A class has fewer images.
    """
    from joblib import Parallel, delayed
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    assert spec.shots is not None and spec.label_sets is not None
    shots, sets = spec.shots, spec.label_sets
    train_ND = _unit(found.train_ND)
    labels_N = found.train_labels_N.numpy()
    others = [
        (_unit(found.held_out_ND), found.held_out_labels_N.numpy()),
        (_unit(found.test_ND), found.test_labels_N.numpy()),
    ]

    several = found.train_labels_N.dim() == 2
    name = "map" if several else "top1"

    def single(number: int, cost: float) -> list[float]:
        index = subsets.shots(found.train_labels_N, shots, number).numpy()
        classifier = LinearSVC(C=cost, random_state=number).fit(train_ND[index], labels_N[index])
        return [100 * float((classifier.predict(x) == y).mean()) for x, y in others]

    def multiple(number: int, cost: float) -> list[float]:
        scores = []
        for label, index in enumerate(shots_of_several(found.train_labels_N, shots, number)):
            classifier = LinearSVC(C=cost, random_state=number).fit(train_ND[index], labels_N[index, label])
            scores.append([classifier.decision_function(x) for x, _ in others])
        return [
            mean_average_precision(np.stack(part, axis=1), y)
            for part, (_, y) in zip(zip(*scores, strict=True), others, strict=True)
        ]

    jobs = [(number, cost) for cost in costs for number in range(sets)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # large C on few samples; the accuracy stands
        # liblinear releases the interpreter's lock, so that threads use all the cores that this process may use.
        run = Parallel(n_jobs=torch.get_num_threads(), prefer="threads")
        results = run(delayed(multiple if several else single)(*job) for job in jobs)
    grid = np.array(results).reshape(len(costs), sets, 2)
    best = int(grid[:, :, 0].mean(1).argmax())
    return {
        f"lowshot/k{shots}_{name}": float(grid[best, :, 1].mean()),
        f"lowshot/k{shots}_std": float(grid[best, :, 1].std(ddof=1)) if sets > 1 else 0.0,
        f"lowshot/k{shots}_cost": costs[best],
        f"lowshot/k{shots}_held_out_{name}": float(grid[best, :, 0].mean()),
    }


def _unit(x_ND: Tensor) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    return F.normalize(x_ND, dim=1).double().numpy()


def shots_of_several(labels_NK: Tensor, shots: int, number: int) -> list["np.ndarray[tuple[int], np.dtype[np.int64]]"]:
    """For each class the places of ``shots`` images that show it and ``(K - 1) shots`` that do not.

    Raises:
        UserError: Too few images show a class.
    """
    classes = labels_NK.shape[1]
    generator = torch.Generator().manual_seed(3_000 + number)
    found = []
    for label in range(classes):
        parts = []
        for value, count in ((1, shots), (0, (classes - 1) * shots)):
            places = (labels_NK[:, label] == value).nonzero()[:, 0]
            if value and len(places) < count:
                raise UserError(f"{count} images of class {label} were asked for, and there are {len(places)}.")
            parts.append(places[torch.randperm(len(places), generator=generator)[:count]])
        found.append(torch.cat(parts).sort().values.numpy())
    return found


def mean_average_precision(scores_MK: "np.ndarray[Any, Any]", labels_MK: "np.ndarray[Any, Any]") -> float:
    """Mean over classes of the area under the precision-recall steps, in percent."""
    from sklearn.metrics import average_precision_score

    return 100 * float(np.mean([average_precision_score(y, s) for y, s in zip(labels_MK.T, scores_MK.T, strict=True)]))
