"""Values for Fashion-MNIST that the profiles `quick` and `mini` share."""

from typing import Any

from eman.sweeps.profiles.shared import SMALL_IMAGES

COMMON = {
    **SMALL_IMAGES,
    "dataset": "fashion-mnist",
    "statistics_passes": 20,  # the initial 0 and 1 would outlast a short run
    "collapse_patience": 2,  # runs have 2 to 10 epochs, and one low epoch alone can pass
}

#: 1 % of the labels, with the whole RandAugment pool: small experiments show the paper's order only with few labels and
#: views that shift the statistics.
FEW_LABELS: dict[str, Any] = {"labelled_batch": 32, "label_fraction": 0.01, "crop_min": 0.6, "lr": 0.06}
FEATURES: dict[str, Any] = {"batch": 256, "projection_dim": 64, "blur_max": 0.5}

METHODS: dict[str, dict[str, Any]] = {
    "fixmatch": {**FEW_LABELS, "batch": 160, "momentum": 0.99, "unlabelled_weight": 3.0},
    "moco": {**FEATURES, "queue": 4096, "hidden_dim": 64, "momentum": 0.99, "lr": 0.06},
    "byol": {**FEATURES, "hidden_dim": 128, "momentum": 0.95, "lr": 0.1, "optimizer": "sgd", "weight_decay": 1e-4},
    "supervised": FEW_LABELS,
}
