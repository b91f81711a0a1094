"""Profile `quick`: Tables 1 and 8 in minutes."""

from eman.sweeps.profiles.fashion import COMMON, METHODS
from eman.sweeps.profiles.profile import Profile
from eman.sweeps.profiles.shared import CACHED, FINETUNED, FROM_PRETRAINED

#: Tables 1 and 8 in minutes on two cores: long enough for the networks to learn, too short to rank the schemes.
QUICK = Profile(
    name="quick",
    about="Fashion-MNIST, 8,192 training images, small ResNet, runs of 128 to 252 steps: a first look, too short to "
    "settle the order of schemes.",
    common={**COMMON, "images": 8192, "held_out": 5000, "warmup_epochs": 0.5, "monitor_every": 1},
    # Half of mini's batch, on fewer devices, so that a device has 8 images; in FixMatch, 4.
    methods={
        "fixmatch": {**METHODS["fixmatch"], "batch": 128, "devices": 32, "epochs": 4},
        "moco": {**METHODS["moco"], "batch": 128, "devices": 16, "epochs": 3},
        "byol": {**METHODS["byol"], "batch": 128, "devices": 16, "epochs": 2},
        "supervised": {**METHODS["supervised"], "devices": 32, "epochs": 60},
    },
    # The paper's rates divided by 30 (MoCo) and multiplied by 2.5 (BYOL), for 64 features instead of 2,048.
    linear_lr={"moco": (0.5, 1.0, 2.0), "byol": (0.5, 1.0, 2.0)},
    stand_in={0.999: 0.99, 0.99999: 0.9999},
    # 1 % of the images fill a batch. Fifty epochs on all images would take longer than the pretraining.
    protocols={**CACHED, "finetune": {**FINETUNED, "batch": 32}},
    finetune_epochs={0.01: 50, 0.1: 20, 1.0: 4},
    fully_supervised={"labelled_batch": 128, "epochs": 4},
    from_pretrained=FROM_PRETRAINED,
    workers={("byol", "syncbn"): 2},  # so that every quick sweep also trains by DDP
)
