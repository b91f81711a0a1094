"""Values for Fashion-MNIST that the profiles `quick` and `mini` share."""

from typing import Any

from eman.sweeps.profiles.shared import SMALL_IMAGES

COMMON = {
    **SMALL_IMAGES,
    "dataset": "fashion-mnist",
    "statistics_passes": 20,  # the initial 0 and 1 would outlast a short run
}

METHODS: dict[str, dict[str, Any]] = {
    # 1 % of the labels and the whole RandAugment pool: small experiments show the paper's order only with few labels
    # and views that shift the statistics.
    "fixmatch": {
        "labelled_batch": 32,
        "batch": 160,
        "label_fraction": 0.01,
        "momentum": 0.99,
        "crop_min": 0.6,
        "unlabelled_weight": 3.0,
        "lr": 0.06,
    },
    "moco": {
        "batch": 256,
        "queue": 4096,
        "hidden_dim": 64,
        "projection_dim": 64,
        "momentum": 0.99,
        "lr": 0.06,
        "blur_max": 0.5,
    },
    "byol": {
        "batch": 256,
        "hidden_dim": 128,
        "projection_dim": 64,
        "momentum": 0.95,
        "lr": 0.1,
        "optimizer": "sgd",
        "weight_decay": 1e-4,
        "blur_max": 0.5,
    },
    "supervised": {"labelled_batch": 32, "label_fraction": 0.01, "crop_min": 0.6, "lr": 0.06},
}
