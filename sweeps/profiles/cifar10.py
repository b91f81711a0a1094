r"""CIFAR-10: the recipes of published numbers on small images, for a GPU.

They train on all 50,000 images and select on the test images, as their sources do; `--set held_out=5000` selects on
held-out training images instead. They have not been run to the end here: tests run a few steps on generated images.

For kNN, `eman evaluate RUN --protocol knn` takes 200 neighbours and temperature 0.1 as all sources do, on the 512
features of the backbone (`--selection best`: of the best epoch).

MoCo, the demo of facebookresearch/moco (colab/moco_cifar10_demo.ipynb): ResNet-18, batch 512 in 8 splits, ShuffleBN;
kNN after the last epoch, on the 128 outputs of the projector. 20 s per epoch on a V100::

    eman train moco --profile cifar10                              82.6 after 200 epochs
    eman train moco --profile cifar10 --set epochs=800             88.7 (400: 86.3)
    eman train moco --profile cifar10 --set symmetric=true         85.3 (400: 88.5, 800: 89.7, linear 90.7)

Lightly (docs/source/getting_started/benchmarks/cifar10_benchmark.py): kNN after the best epoch on the test images; 2
hours per 200 epochs on an A6000. Its losses are means over both directions, ours are sums, BYOL's with a factor of 2.
So its learning rate of 0.06 and weight decay of 5e-4 become 0.03 and 1e-3 in MoCo, 0.015 and 2e-3 in BYOL::

    eman train byol --profile cifar10                                                   86.9 after 200 epochs
    eman train byol --profile cifar10 --set batch=512 --set lr=0.06 --set epochs=800    91.0
    eman train moco --profile cifar10 --set symmetric=true --set batch=128 --set lr=0.03 --set weight_decay=0.001 \
        --set linear_projector=false --set hidden_dim=512                               83.8 after 200 epochs

FixMatch, USB (microsoft/Semi-supervised-learning, config/classic_cv/fixmatch): WRN-28-2, 2^20 steps of 64 labelled and
448 unlabelled images on one GPU, evaluated with an average of the weights; error of the best epoch on the test images,
mean and deviation of three label sets. Here the average is evaluated as the teacher, after the last and the best epoch
(`test/teacher_top1`, `test/teacher_top1_best`)::

    eman train fixmatch --profile cifar10 --set devices=1 --set label_count=40          8.33 +- 1.41
    eman train fixmatch --profile cifar10 --set devices=1 --set label_count=250         4.97 +- 0.05
    eman train fixmatch --profile cifar10 --set devices=1 --set label_count=4000        4.29 +- 0.10

Users of another implementation estimate four days on an RTX 2080 Ti (valencebond/FixMatch_pytorch, issue 2). `--set
epochs=296` makes it 2^15 steps, for which no number is published. Not as in USB: the classifier's initial weights, the
pixel statistics (CIFAR-10's own instead of ImageNet's), and bfloat16 where it is fast (`--set precision=float32`).
"""

from eman.sweeps.profiles.profile import Profile
from eman.sweeps.profiles.shared import FINETUNED, FIXMATCH_PEERS, FULLY_SUPERVISED_SMALL, KNN_200, SUPERVISED_SMALL

CIFAR10 = Profile(
    name="cifar10",
    about="CIFAR-10, 50,000 training images, 8 devices; ResNet-18 for small images, FixMatch with WRN-28-2 and 4,000 "
    "labels. The recipes of the published numbers.",
    recipe=__doc__,
    common={
        "dataset": "cifar10",
        "backbone": "resnet18-small",  # a 3x3 stem of stride 1 and no pooling, as all of them have it
        "precision": "auto",
        "devices": 8,  # the demo's SplitBatchNorm of 8
        "schedule": "cosine",
        "epochs": 200,
        "warmup_epochs": 0.0,  # none of them has a warm-up
        "monitor_every": 10,
    },
    methods={
        "fixmatch": {
            **FIXMATCH_PEERS,
            "backbone": "wrn-28-2",
            "label_fraction": 4_000 / 50_000,
            "epochs": 9447,  # of 111 steps: 2^20
            "monitor_every": 46,  # USB evaluates every 5,120 steps
        },
        "moco": {
            "batch": 512,
            "lr": 0.06,
            "weight_decay": 5e-4,
            "queue": 4096,
            "momentum": 0.99,
            "temperature": 0.1,
            "projection_dim": 128,
            "linear_projector": True,
            "crop_min": 0.08,  # torchvision's default
            "blur_max": 0.0,
            "device_statistics": "mean",  # of the demo's splits
        },
        # Lightly normalizes over the whole batch, as SyncBN does, the default row.
        "byol": {
            "batch": 128,
            "optimizer": "sgd",
            "lr": 0.015,
            "weight_decay": 2e-3,
            "momentum": 0.99,
            "final_momentum": 0.99,
            "hidden_dim": 1024,
            "projection_dim": 256,
            "crop_min": 0.08,
            "blur_max": 0.0,
        },
        "supervised": {**SUPERVISED_SMALL, "label_fraction": 4_000 / 50_000},
    },
    # MoCo: the paper's rates; the demo recommends 30. BYOL: no rate is published for training by SGD, so from the
    # paper's lowest upwards.
    linear_lr={"moco": (15.0, 30.0, 60.0), "byol": (0.2, 1.0, 5.0)},
    protocols={"knn": KNN_200, "finetune": {**FINETUNED, "batch": 64}},  # 1 % of the images fill a batch
    fully_supervised=FULLY_SUPERVISED_SMALL,
    # Table 6 starts from ResNet-18, and 2^15 steps allow its 18 runs.
    semi_supervised={share: {"backbone": "resnet18-small", "epochs": 296} for share in (0.01, 0.1)},
    from_pretrained={"lr": 0.003},  # the paper's tenth of the rate
)
