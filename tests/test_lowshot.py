"""Low-shot classification against plain scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.preprocessing import normalize
from sklearn.svm import LinearSVC

from eman.evaluation.compute import lowshot
from eman.evaluation.features import Features
from eman.evaluation.protocols.lowshot import LowShotSpec
from eman.platform.errors import UserError
from eman.trainers.data import label_sets


def splits() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for count in (200, 90, 120):
        labels = torch.randint(0, 4, (count,), generator=generator)
        centres = 1.5 * torch.nn.functional.one_hot(labels, 10)
        found.append((torch.randn(count, 10, generator=generator) + centres, labels))
    return found


def test_shots_are_balanced_and_differ_between_sets() -> None:
    labels = splits()[0][1]
    first, second = label_sets.shots(labels, 3, 0), label_sets.shots(labels, 3, 1)
    assert torch.bincount(labels[first]).tolist() == [3, 3, 3, 3]
    assert first.tolist() != second.tolist()
    assert first.tolist() == label_sets.shots(labels, 3, 0).tolist()
    with pytest.raises(UserError, match="500 samples per class were asked for, and class"):
        label_sets.shots(labels, 500, 0)


@pytest.mark.filterwarnings("ignore:Liblinear failed to converge")
def test_the_cost_that_held_out_images_choose_gives_scikit_learns_number() -> None:
    train, held_out, test = splits()
    means = {}
    for cost in (0.03125, 1.0, 32.0):
        accuracy = []
        for number in range(3):
            index = label_sets.shots(train[1], 4, number)
            model = LinearSVC(C=cost, random_state=number)
            model.fit(normalize(train[0][index].numpy()).astype(np.float64), train[1][index].numpy())
            accuracy.append([100 * model.score(normalize(x.numpy()), y.numpy()) for x, y in (held_out, test)])
        means[cost] = np.mean(accuracy, 0)
    best = max(means, key=lambda cost: means[cost][0])
    features = Features(*train, *held_out, *test)
    found = lowshot.classify(LowShotSpec(shots=4, label_sets=3), features, tuple(means)).metrics
    assert found["lowshot/k4_cost"] == best
    assert found["lowshot/k4_held_out_top1"] == pytest.approx(means[best][0], abs=0.4)  # features are rounded once more
    assert found["lowshot/k4_top1"] == pytest.approx(means[best][1], abs=0.4)


def test_several_classes_an_image_are_one_svm_each_and_mean_average_precision() -> None:
    generator = torch.Generator().manual_seed(1)
    parts = []
    for count in (300, 80, 150):
        labels = (torch.rand(count, 3, generator=generator) < 0.3).long()
        parts.append((torch.randn(count, 8, generator=generator) + 2 * torch.nn.functional.pad(labels, (0, 5)), labels))
    features = Features(*parts[0], *parts[1], *parts[2])
    found = lowshot.classify(LowShotSpec(shots=4, label_sets=2), features, (1.0,)).metrics
    values = []
    for number in range(2):
        for label, index in enumerate(lowshot.shots_of_several(parts[0][1], 4, number)):
            target = parts[0][1][index, label].numpy()
            assert (target.sum(), len(target)) == (4, 12)
            x = normalize(parts[0][0][index].numpy()).astype(np.float64)
            model = LinearSVC(C=1.0, random_state=number).fit(x, target)
            order = np.argsort(-model.decision_function(normalize(parts[2][0].numpy())))
            hits = parts[2][1][order, label].numpy()
            precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
            values.append(100 * precision[hits == 1].mean())
    assert found["lowshot/k4_map"] == pytest.approx(np.mean(values), abs=0.3)
    with pytest.raises(UserError, match="500 images of class 0 were asked for"):
        lowshot.shots_of_several(parts[0][1], 500, 0)
