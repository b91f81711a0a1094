"""Imagenette: ten classes of ImageNet as public JPEG files, for a GPU. They are read in the same way as ImageNet's.

Nothing is downloaded: unpack an archive of github.com/fastai/imagenette in the data folder, as `eman data list` says.
ResNet-18 sees crops of 128 pixels. The recipes train on all 9,469 images and select on the 3,925 of `val`, as their
sources do; `--set held_out=1000` selects on held-out training images instead. They have not been run to the end here:
tests run a few steps on generated JPEG files.

Lightly (docs/source/getting_started/benchmarks/imagenette_benchmark.py): kNN with 200 neighbours and temperature 0.1
after the best epoch on `val`; four hours per 800 epochs on an A6000. Learning rate and weight decay stand for its own
as at profile cifar10. Its MoCo normalizes over the whole batch, as SyncBN does::

    eman train moco --profile imagenette --scheme syncbn           87.4 after 800 epochs (200: 78.6)
    eman train byol --profile imagenette                           88.7 (200: 70.5)
    eman train byol --profile imagenette --set epochs=200
    eman evaluate RUN --protocol knn --selection best

BYOL's authors give 92.3 for linear evaluation at 128 pixels, after about four hours on a V100, with a recipe of their
own (lightly-ai/lightly, issue 279): `eman evaluate RUN --protocol linear`.

FixMatch has the paper's values for ImageNet and 10 % of the labels. No number is published::

    eman train fixmatch --profile imagenette --scheme eman

The images of 320 pixels are another archive; their crops may be larger::

    eman train byol --profile imagenette --set dataset=imagenette2-320 --set image_size=224
"""

from eman.sweeps.profiles.profile import Profile
from eman.sweeps.profiles.shared import FINETUNED, KNN_200

#: Lightly's values for both methods.
LIGHTLY = {"batch": 256, "momentum": 0.99, "crop_min": 0.08, "warmup_epochs": 0.0, "epochs": 800}

IMAGENETTE = Profile(
    name="imagenette",
    about="Imagenette (160 px), 9,469 training images, ResNet-18 on crops of 128 px, 8 devices; FixMatch with 10 % of "
    "the labels.",
    recipe=__doc__,
    common={
        "dataset": "imagenette2-160",
        "image_size": 128,
        "backbone": "resnet18",
        "precision": "auto",
        "devices": 8,
        "monitor_every": 10,
    },
    methods={
        "fixmatch": {"epochs": 400},  # about 10,000 steps
        "moco": {
            **LIGHTLY,
            "symmetric": True,
            "lr": 0.03,
            "weight_decay": 1e-3,
            "queue": 4096,
            "temperature": 0.1,
            "projection_dim": 128,
            "hidden_dim": 2048,
        },
        # Lightly normalizes over the whole batch, as SyncBN does, the default row.
        "byol": {
            **LIGHTLY,
            "optimizer": "sgd",
            "lr": 0.015,
            "weight_decay": 2e-3,
            "final_momentum": 0.99,
            "hidden_dim": 4096,
            "projection_dim": 256,
        },
        "supervised": {"epochs": 400},
    },
    linear_lr={"moco": (15.0, 30.0, 60.0), "byol": (0.2, 1.0, 5.0)},  # as at profile cifar10
    label_fraction=1.0,  # as in the published number
    protocols={"knn": KNN_200, "finetune": {**FINETUNED, "batch": 64}},  # 1 % of the images fill a batch
    fully_supervised={"labelled_batch": 64, "epochs": 200},
    from_pretrained={"lr": 0.003},
)
