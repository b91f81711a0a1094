"""Profile `smoke`: the whole pipeline in seconds."""

from eman.sweeps.profiles.profile import Profile
from eman.sweeps.profiles.shared import CACHED, FINETUNED, FROM_PRETRAINED, SMALL_IMAGES

FAST = {"momentum": 0.95, "lr": 0.05}
FEATURES = {"batch": 64, "hidden_dim": 32, "projection_dim": 32, "blur_max": 0.0}

#: The tests' profile: the whole code path of a sweep in seconds, on data that scikit-learn ships. Its numbers are real
#: but compare nothing.
SMOKE = Profile(
    name="smoke",
    about="digits (16 px), 2 short epochs, 4 devices: a test that everything runs, not a comparison.",
    common={
        **SMALL_IMAGES,
        "dataset": "digits",
        "devices": 4,
        "epochs": 2,
        "warmup_epochs": 0.5,
        "statistics_passes": 2,
        "held_out": 200,
        "crop_min": 0.5,
        "monitor_every": 1,
        "precision": "float32",
        "collapse_bound": 0.0,  # BYOL's GN and IN collapse, and the tests need every cell
    },
    methods={
        "fixmatch": {**FAST, "labelled_batch": 16, "batch": 64, "label_fraction": 0.1, "unlabelled_weight": 1.0},
        "moco": {**FAST, **FEATURES, "queue": 256},
        "byol": {**FAST, **FEATURES, "optimizer": "sgd", "weight_decay": 1e-4},
        "supervised": {"labelled_batch": 16, "lr": 0.05},
    },
    linear_lr={"moco": (0.5, 1.0, 2.0), "byol": (0.5, 1.0, 2.0)},
    label_sets={0.01: 2, 0.1: 3, 1.0: 1},
    finetune_lr=(0.001, 0.01),
    protocols={**CACHED, "finetune": {**FINETUNED, "batch": 32}},
    finetune_epochs={0.01: 6, 0.1: 4, 1.0: 2},
    stand_in={0.999: 0.95, 0.99999: 0.999},
    fully_supervised={"labelled_batch": 64},
    from_pretrained=FROM_PRETRAINED,
    workers={("byol", "syncbn"): 2},
)
