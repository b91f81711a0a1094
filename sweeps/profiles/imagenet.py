"""ImageNet and ResNet-50: the paper's scale, with the paper's or the official code's values.

The numbers to expect are the paper's, which tables print beside ours. `eman plan table1 --images-per-second N` gives
the cost at a speed of N on one GPU; the paper trained on 8 V100, where 200 epochs of MoCo take 53 hours (MoCo's
README). It has not been run here: tests read JPEG folders of ImageNet's shape::

    eman sweep table1 --profile imagenet --address HOST:6379 --workers 8 --cpus 8 --gpus 1
"""

from eman.sweeps.profiles.profile import LowShot, Profile

#: Its values are the defaults of RunSpec and of the methods.
IMAGENET = Profile(
    name="imagenet",
    about="ImageNet, ResNet-50, 8 devices: the paper's hyper-parameters.",
    recipe=__doc__,
    common={"dataset": "imagenet", "image_size": 224},
    methods={
        "moco": {"warmup_epochs": 5.0},
        # Official code, main_byol.py: by name, without the heads' norms; utils/LARS.py: the rate enters the buffer.
        "byol": {"lars_exclude": "official", "lars_rate": "inside"},
        "fixmatch": {},
        "supervised": {},
    },
    linear_lr={"moco": (15.0, 30.0, 60.0), "byol": (0.2, 0.4, 0.8)},
    # torchvision's recipe for the ResNet-50 of the paper's supervised rows: 90 epochs, 0.1, divided by 10 every 30.
    fully_supervised={"labelled_batch": 256, "epochs": 90, "lr": 0.1, "milestones": (1 / 3, 2 / 3)},
    # 200 epochs, and a warm-up of 10, as in the README of the official code.
    pretraining={method: {"epochs": 200, "warmup_epochs": 10.0} for method in ("moco", "byol")},
    # Section 5.3: 50 epochs at 1 %, 100 at 10 %.
    semi_supervised={0.01: {"epochs": 50}, 0.1: {"epochs": 100}},
    # VOC2007 uses ImageNet's networks; iNaturalist has its own, of 1,000 and 200 epochs (Section 5.2).
    low_shot={
        "ImageNet": LowShot(),
        "VOC2007": LowShot(dataset="voc2007", several=True),
        "iNaturalist": LowShot(dataset="inaturalist", pretrained={"moco": {"epochs": 1000}, "byol": {"epochs": 200}}),
    },
    from_pretrained={"lr": 0.003},
)
