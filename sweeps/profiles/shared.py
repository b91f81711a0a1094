"""Values that several profiles share."""

from typing import Any

SMALL_IMAGES = {
    "backbone": "small",  # trains in seconds on one core
    "precision": "auto",  # bfloat16 halves a step's time on CPUs that support it
    "schedule": "cosine",
    "schedule_unit": "step",  # a run of few epochs needs a rate that changes within an epoch
}

#: Small profiles classify cached features: one pass over the images instead of fifty.
CACHED: dict[str, Any] = {"linear": {"views": "cached"}}

#: Small batches are finetuned on one device, which normalizes over all of them.
FINETUNED: dict[str, Any] = {"devices": 1, "head_init": "normal"}

#: Pretrained statistics need no warm-up passes. The learning rate is not divided by ten as in the paper: from
#: MoCo-EMAN at profile quick (seed and label set 100, 1 % of the labels), rates of 0.06, 0.02 and 0.006 gave 68.9, 63.2
#: and 51.7 % on the held-out images.
FROM_PRETRAINED: dict[str, Any] = {"statistics_passes": 0}

#: kNN as in the published numbers on small images: 200 neighbours, votes weighted by exp(cosine / 0.1).
KNN_200: dict[str, Any] = {"k": 200, "temperature": 0.1}

#: FixMatch as in USB (microsoft/Semi-supervised-learning: semilearn/algorithms/fixmatch, core/utils/build.py,
#: datasets/cv_datasets/cifar.py) and kekmodel/FixMatch-pytorch on small images, without their backbone.
FIXMATCH_PEERS: dict[str, Any] = {
    "labelled_batch": 64,
    "batch": 448,  # mu = 7
    "label_sampling": "balanced",
    "reuse_labelled": True,
    "threshold": 0.95,
    "unlabelled_weight": 1.0,
    "lr": 0.03,
    "nesterov": True,
    "weight_decay": 5e-4,
    "decay_exempts_vectors": True,
    "schedule_unit": "step",
    "cosine_arc": 7 / 16,
    "momentum": 0.999,
    "average_student": True,
    "student_proxy_momentum": 0.999,
    "crop_padding": 1 / 8,
    "strong_pool": "cifar",
    "strong_ops": 3,
    "cutout": 0.5,
}

#: Supervised training: the usual ResNet-18 recipe for CIFAR-10, which reaches 95 % with all labels.
SUPERVISED_SMALL: dict[str, Any] = {"lr": 0.03, "weight_decay": 5e-4, "labelled_batch": 64, "crop_padding": 1 / 8}
FULLY_SUPERVISED_SMALL: dict[str, Any] = {"lr": 0.1, "labelled_batch": 128, "epochs": 200}
