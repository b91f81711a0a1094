"""Values that several profiles share."""

from typing import Any

SMALL_IMAGES = {
    "backbone": "small",  # trains in seconds on a core
    "precision": "auto",  # bfloat16 halves a step where the CPU has it
    "schedule": "cosine",
    "schedule_unit": "step",  # a run of a few epochs needs a rate that moves within them
}

#: Small profiles classify cached features: one pass over the images instead of fifty.
CACHED: dict[str, Any] = {"linear": {"views": "cached"}}

#: The pretrained statistics are good from the start. The paper's tenth of the learning rate is for longer runs: from
#: MoCo-EMAN at profile quick, seed and label set 100, 1 % of the labels, rates of 0.06, 0.02 and 0.006 gave 68.9, 63.2
#: and 51.7 % on the images put aside.
FROM_PRETRAINED: dict[str, Any] = {"statistics_passes": 0}

#: kNN as the published numbers on small images have it: 200 neighbours, votes weighed by exp(cosine / 0.1).
KNN_200: dict[str, Any] = {"k": 200, "temperature": 0.1}

#: FixMatch as USB and kekmodel/FixMatch-pytorch train it on small images. Theirs differ in what no field says: a
#: WRN-28-2, Nesterov momentum, Cutout after RandAugment, a batch-norm momentum of 0.001, a cosine that ends before 0.
FIXMATCH_PEERS: dict[str, Any] = {
    "labelled_batch": 64,
    "batch": 448,  # mu = 7
    "threshold": 0.95,
    "unlabelled_weight": 1.0,
    "lr": 0.03,
    "weight_decay": 5e-4,
    "momentum": 0.999,  # theirs is of the network that they evaluate
    "schedule_unit": "step",
    # Their weak view shifts a padded image by up to an eighth of its side; a crop of that area is the nearest of ours.
    "crop_min": 0.75,
}

#: A network of the labels alone: the usual ResNet-18 of CIFAR-10, which reaches 95 % with all of them.
SUPERVISED_SMALL: dict[str, Any] = {"lr": 0.03, "weight_decay": 5e-4, "labelled_batch": 64, "crop_min": 0.75}
FULLY_SUPERVISED_SMALL: dict[str, Any] = {"lr": 0.1, "labelled_batch": 128, "epochs": 200}
