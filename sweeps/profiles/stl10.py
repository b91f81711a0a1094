"""STL-10: the recipe of a published number at 96 pixels, for a GPU.

It holds out 500 of the 5,000 labelled images for selection. It has not been run to the end here.

MoCo and BYOL, imbue-ai/self_supervised: ResNet-18, 320 epochs; linear evaluation on the 5,000 labels::

    eman train moco --profile stl10                                85 after linear evaluation
    eman evaluate RUN --protocol linear

FixMatch, TorchSSL: 93.75 +- 0.33 with 1,000 labels after 2^20 steps of WRN-37-2. Here it is ResNet-18 and 2^15 steps,
for which no number is published::

    eman train fixmatch --profile stl10
"""

from eman.sweeps.profiles.profile import Profile
from eman.sweeps.profiles.shared import FINETUNED, FIXMATCH_PEERS, FULLY_SUPERVISED_SMALL, KNN_200, SUPERVISED_SMALL

STL10 = Profile(
    name="stl10",
    about="STL-10 (96 px), 4,500 labelled and 100,000 unlabelled training images, ResNet-18, 8 devices; shares of the "
    "labels are of the 4,500, FixMatch has 1,000.",
    recipe=__doc__,
    common={
        "dataset": "stl10",
        "backbone": "resnet18",  # the published network; the small stem's maps would be 16 times as large at 96 px
        "precision": "auto",
        "held_out": 500,  # of the 5,000 labelled, for selection
        "devices": 8,
        "schedule": "cosine",
        "epochs": 320,
        "warmup_epochs": 0.0,  # its MoCo has no warm-up
        "monitor_every": 10,
    },
    methods={
        # About 2^15 steps, as at profile cifar10. TorchSSL's network is a WRN-37-2 (93.8 % with 1,000 labels).
        "fixmatch": {**FIXMATCH_PEERS, "label_fraction": 1_000 / 4_500, "epochs": 140},
        "moco": {
            "batch": 256,
            "lr": 0.5,
            "queue": 65536,
            "momentum": 0.996,
            "temperature": 0.2,
            "projection_dim": 128,
            "hidden_dim": 512,
            "blur_max": 0.86,  # the official 2 at 224 px, scaled to 96
        },
        "byol": {
            "batch": 256,
            "optimizer": "lars",
            "lr": 0.5,
            "weight_decay": 1e-4,
            "warmup_epochs": 1.0,
            "momentum": 0.996,
            "projection_dim": 128,
            "hidden_dim": 512,
            "blur_max": 0.86,
        },
        "supervised": {**SUPERVISED_SMALL, "label_fraction": 1_000 / 4_500, "epochs": 200},
    },
    linear_lr={"moco": (15.0, 30.0, 60.0), "byol": (0.2, 1.0, 5.0)},  # as at profile cifar10
    label_fraction=1.0,  # as in the published number
    protocols={"knn": KNN_200, "finetune": {**FINETUNED, "batch": 32}},  # 1 % of the labels fill a batch
    fully_supervised=FULLY_SUPERVISED_SMALL,
    from_pretrained={"lr": 0.003},
)
