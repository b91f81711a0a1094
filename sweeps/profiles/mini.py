"""Profile `mini`: a small reproduction in hours."""

from eman.sweeps.profiles.fashion import COMMON, METHODS
from eman.sweeps.profiles.profile import Profile
from eman.sweeps.profiles.shared import CACHED, FINETUNED, FROM_PRETRAINED

#: A small reproduction in hours on two cores: all training images, and runs ten times longer than `quick`.
#: docs/mini-profile.md describes the experiments behind its values.
MINI = Profile(
    name="mini",
    about="Fashion-MNIST, 50,000 training images, small ResNet, 64 devices of 4 images, runs of 1,170 to 2,060 steps; "
    "FixMatch with 500 labels.",
    # Four images per device: statistics noisy enough to separate the schemes; with two, BYOL fails.
    common={**COMMON, "held_out": 10000, "devices": 64, "warmup_epochs": 0.5, "monitor_every": 2},
    methods={
        "fixmatch": {
            **METHODS["fixmatch"],
            "labelled_batch": 64,  # one per device, and three unlabelled
            "batch": 192,
            "unlabelled_weight": 10.0,  # the paper's; a smaller weight makes wrong pseudo-labels cost less
            "lr": 0.03,
            "epochs": 8,
        },
        "moco": {**METHODS["moco"], "epochs": 10},
        "byol": {**METHODS["byol"], "momentum": 0.98, "lr": 0.3, "epochs": 6},  # the paper's momentum
        "supervised": {**METHODS["supervised"], "devices": 32, "epochs": 200},
    },
    label_fraction=0.01,  # 50 labels per class; the paper has 128
    linear_lr={"moco": (1.0, 2.0, 4.0, 8.0), "byol": (1.0, 2.0, 4.0, 8.0)},
    stand_in={0.999: 0.99, 0.99999: 0.9999},
    protocols={**CACHED, "finetune": {**FINETUNED, "batch": 64}},
    finetune_epochs={0.01: 50, 0.1: 50, 1.0: 10},
    fully_supervised={"labelled_batch": 256, "epochs": 14},
    from_pretrained=FROM_PRETRAINED,
)
