"""Random crops and flips of training images, different in every epoch."""

import torch
from torch import Tensor

from eman.evaluation.features import Splits
from eman.trainers.data.stored import StoredSplit
from eman.trainers.views import transforms
from eman.trainers.views import views as augment
from eman.trainers.views.draws import Draws
from eman.trainers.views.options import ViewOptions


def cropped(splits: Splits, index_N: Tensor, epoch: int, *, seed: int, crop_min: float, like: Tensor) -> Tensor:
    """Return training images, randomly cropped and flipped, normalized, ``(N, A, H, W)``.

    Crops and flips depend on ``seed`` and ``epoch``, counted from 0; ``crop_min`` is the smallest area of a crop, as a
    fraction of the image's; the result has the device and type of ``like``.
    """
    split, options = splits.train, ViewOptions(crop_min, cropped=splits.train.cropped)

    def draws() -> Draws:
        return Draws(seed, torch.full_like(index_N, epoch), split.ids[index_N], 0)

    if isinstance(split, StoredSplit) and split.cropped:
        images_NAHW = split.crops(index_N, draws(), crop_min)
    else:
        images_NAHW = split.read(index_N)
    x_NAHW = augment.weak(images_NAHW.to(like.device).float() / 255, draws(), options)
    return transforms.normalize(x_NAHW, splits.dataset.mean, splits.dataset.std).to(like.dtype)
