"""Profile `cifar10`: the recipes of published numbers on CIFAR-10, for a GPU."""

from eman.sweeps.profiles.profile import Profile
from eman.sweeps.profiles.shared import FINETUNED, FIXMATCH_PEERS, FULLY_SUPERVISED_SMALL, KNN_200, SUPERVISED_SMALL

#: The self-supervised recipes behind the published numbers of ResNet-18 on CIFAR-10, for a GPU: MoCo's own notebook
#: (kNN 82.6 after 200 epochs, 88.7 after 800), Lightly's benchmark for BYOL (86.9 after 200, batch 128). Both train on
#: all 50,000 images; ``--set held_out=0`` does so too, and then selects on the test images, as they do.
CIFAR10 = Profile(
    name="cifar10",
    about="CIFAR-10, 45,000 training images, ResNet-18 for small images, 8 devices; FixMatch with 4,000 labels. The "
    "recipes of the published numbers, on a tenth fewer images.",
    common={
        "dataset": "cifar10",
        "backbone": "resnet18-small",  # a 3x3 stem of stride 1 and no pooling, as all of them have it
        "precision": "auto",
        "held_out": 5000,  # for selection; 500 per class
        "devices": 8,  # the notebook's SplitBatchNorm of 8
        "schedule": "cosine",
        "epochs": 200,
        "warmup_epochs": 0.0,  # none of them has a warm-up
        "monitor_every": 10,
    },
    methods={
        # 2^15 steps, 1/32 of the published length, with which a table would take weeks; `eman train fixmatch --set
        # epochs=11520` is as long as theirs.
        "fixmatch": {**FIXMATCH_PEERS, "label_fraction": 4_000 / 45_000, "epochs": 360},
        # The notebook, whose head is one linear layer; ours is MoCo v2's, with the backbone's width as hidden width.
        "moco": {
            "batch": 512,
            "lr": 0.06,
            "weight_decay": 5e-4,
            "queue": 4096,
            "momentum": 0.99,
            "temperature": 0.1,
            "projection_dim": 128,
            "hidden_dim": 512,
            "crop_min": 0.08,  # torchvision's default
            "blur_max": 0.0,
        },
        # Lightly, whose momentum stays at 0.99; ours rises from there to 1, as in BYOL. No solarization.
        "byol": {
            "batch": 128,
            "optimizer": "sgd",
            "lr": 0.06,
            "weight_decay": 5e-4,
            "momentum": 0.99,
            "hidden_dim": 1024,
            "projection_dim": 256,
            "crop_min": 0.08,
            "blur_max": 0.0,
        },
        "supervised": {**SUPERVISED_SMALL, "label_fraction": 4_000 / 45_000},
    },
    # MoCo: the paper's rates; the notebook recommends 30. BYOL: no rate is published for training by SGD, so from the
    # paper's lowest upwards.
    linear_lr={"moco": (15.0, 30.0, 60.0), "byol": (0.2, 1.0, 5.0)},
    protocols={"knn": KNN_200, "finetune": {**FINETUNED, "batch": 64}},  # 1 % of the images fill a batch
    fully_supervised=FULLY_SUPERVISED_SMALL,
    from_pretrained={"lr": 0.003},  # the paper's tenth of the rate
)
