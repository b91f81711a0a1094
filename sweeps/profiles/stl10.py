"""Profile `stl10`: the recipes of published numbers on STL-10, for a GPU."""

from eman.sweeps.profiles.profile import Profile
from eman.sweeps.profiles.shared import FINETUNED, FIXMATCH_PEERS, FULLY_SUPERVISED_SMALL, KNN_200, SUPERVISED_SMALL

#: imbue-ai/self_supervised's recipe for ResNet-18 on STL-10: MoCo v2 with 85 % linear accuracy on 5,000 labels, BYOL
#: with the same backbone and length.
STL10 = Profile(
    name="stl10",
    about="STL-10 (96 px), 4,500 labelled and 100,000 unlabelled training images, ResNet-18, 8 devices; shares of the "
    "labels are of the 4,500, FixMatch has 1,000.",
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
