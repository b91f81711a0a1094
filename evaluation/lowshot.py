"""Low-shot classification on frozen features (Section 5.2, Table 5): linear SVMs on k images a class.

Five sets of k images a class; scikit-learn's linear SVM with the cost C from 2^-5 to 2^5; the C whose mean over the
sets is best on the held-out images gives the result (on the test images themselves where nothing is put aside, as in
the paper). Features are scaled to length 1, as is usual for this protocol, so that one grid of C suits every network.

Shapes: N training samples, M samples of another split, D features, S sets.
"""

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eman.evaluation.features import Features
from eman.platform.spec import EvalSpec
from eman.trainers import data

#: C of the grid.
COSTS = tuple(2.0**power for power in range(-5, 6))


def evaluate(spec: EvalSpec, found: Features, costs: tuple[float, ...] = COSTS) -> dict[str, float]:
    """The result at ``spec.shots`` images a class, over ``spec.label_sets`` sets.

    Returns:
        ``lowshot/k4_top1`` (of 4 shots) on the test images in percent, mean over sets; ``lowshot/k4_std``, its sample
        standard deviation over them; ``lowshot/k4_cost``, the chosen C; ``lowshot/k4_held_out_top1``, by which.

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

    def accuracies(number: int, cost: float) -> list[float]:
        index = data.shots(found.train_labels_N, shots, number).numpy()
        classifier = LinearSVC(C=cost, random_state=number).fit(train_ND[index], labels_N[index])
        return [100 * float((classifier.predict(x) == y).mean()) for x, y in others]

    jobs = [(number, cost) for cost in costs for number in range(sets)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # large C on few samples; the accuracy stands
        # liblinear releases the interpreter's lock, so that threads use all the cores that this process may use.
        run = Parallel(n_jobs=torch.get_num_threads(), prefer="threads")
        results = run(delayed(accuracies)(*job) for job in jobs)
    grid = np.array(results).reshape(len(costs), sets, 2)
    best = int(grid[:, :, 0].mean(1).argmax())
    return {
        f"lowshot/k{shots}_top1": float(grid[best, :, 1].mean()),
        f"lowshot/k{shots}_std": float(grid[best, :, 1].std(ddof=1)) if sets > 1 else 0.0,
        f"lowshot/k{shots}_cost": costs[best],
        f"lowshot/k{shots}_held_out_top1": float(grid[best, :, 0].mean()),
    }


def _unit(x_ND: Tensor) -> "np.ndarray[tuple[int, int], np.dtype[np.float64]]":
    return F.normalize(x_ND, dim=1).double().numpy()
