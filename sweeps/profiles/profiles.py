"""Profiles: at which scale the paper is run. Each is a typed declaration with the reason for each value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eman.platform.errors import UserError, named
from eman.platform.machine import fast_bf16
from eman.trainers.methods.registry import make_spec, method_named, resolve_scheme
from eman.trainers.norm.schemes import Scheme
from eman.trainers.spec.run import RunSpec


@dataclass(frozen=True, kw_only=True)
class LowShot:
    """A block of Table 5.

    Attributes:
        dataset: Its data set; ``None``: that of the profile.
        several: Whether an image has several classes.
        pretrained: RunSpec fields by method of networks that are pretrained on it; empty: the profile's networks serve.
    """

    dataset: str | None = None
    several: bool = False
    pretrained: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A scale.

    Attributes:
        name: What one types.
        about: One line for ``--help`` and notes.
        common: RunSpec fields of every method.
        methods: RunSpec fields of single methods.
        linear_lr: Grid of learning rates of the linear evaluation, by method. The paper's is {15, 30, 60} for MoCo and
            {0.2, 0.4, 0.8} for BYOL.
        label_fraction: Share of labels of the linear evaluation in Tables 1 and 8 (10 %).
        label_sets: Label sets that are averaged at a share of the labels (Section 5.2: five at 1 %, three at 10 %).
        finetune_lr: Grid of the encoder's learning rate when finetuning (Section 5.2).
        head_lr: Learning rate of the new classifier when finetuning, at a share of the labels. The paper has 1.0 at 1 %
            and 0.1 at 10 %, and gives none at 100 %.
        finetune_epochs: Epochs of finetuning at a share of the labels.
        protocols: EvalSpec fields by protocol that differ from the paper's.
        stand_in: A momentum of the paper's rows (m of Eq. (9), alpha of Eq. (4)) and the value that plays its part in
            shorter runs. A number that is absent stands for itself.
        fully_supervised: RunSpec fields of the supervised network with all labels (Tables 2, 4 and 5).
        pretraining: RunSpec fields by method of the pretrained networks of Tables 2 to 6, where they are not those of
            Table 1.
        semi_supervised: RunSpec fields of Table 6's FixMatch at a share of the labels.
        low_shot: Blocks of Table 5 by the paper's name; the first is the data set of the pretraining, whatever it is.
        from_pretrained: RunSpec fields of a FixMatch that starts from a pretrained network (Section 5.3).
        workers: Runs that are trained by several workers unless ``--workers`` says otherwise, by (method, scheme).
    """

    name: str
    about: str
    common: Mapping[str, Any]
    methods: Mapping[str, Mapping[str, Any]]
    linear_lr: Mapping[str, tuple[float, ...]]
    label_fraction: float = 0.1
    label_sets: Mapping[float, int] = field(default_factory=lambda: {0.01: 5, 0.1: 3, 1.0: 1})
    finetune_lr: tuple[float, ...] = (1e-4, 1e-3, 1e-2)
    head_lr: Mapping[float, float] = field(default_factory=lambda: {0.01: 1.0, 0.1: 0.1, 1.0: 0.1})
    finetune_epochs: Mapping[float, int] = field(default_factory=lambda: {0.01: 50, 0.1: 50, 1.0: 50})
    protocols: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    stand_in: Mapping[float, float] = field(default_factory=dict)
    fully_supervised: Mapping[str, Any] = field(default_factory=dict)
    pretraining: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    semi_supervised: Mapping[float, Mapping[str, Any]] = field(default_factory=dict)
    low_shot: Mapping[str, LowShot] = field(default_factory=lambda: {"ImageNet": LowShot()})
    from_pretrained: Mapping[str, Any] = field(default_factory=dict)
    workers: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def run(self, method: str, scheme: str, seed: int = 0, overrides: Mapping[str, Any] | None = None) -> RunSpec:
        """The specification of a run at this scale.

        Args:
            method: A method's name.
            scheme: A scheme's name.
            seed: Seed; the label set follows it.
            overrides: RunSpec fields that override the profile's.

        Raises:
            UserError: A name or a field is wrong.
        """
        entry = method_named(method)
        fields = {**self.common, **self.methods.get(method, {}), "seed": seed}
        if fields.get("precision") == "auto":
            fields["precision"] = "bf16" if fast_bf16() else "float32"
        if "label_set" in entry.fields:
            fields["label_set"] = seed
        return make_spec(method, self._scaled(resolve_scheme(method, scheme)), {**fields, **(overrides or {})})

    def _scaled(self, scheme: Scheme) -> Scheme:
        def scaled(value: float | None) -> float | None:
            return None if value is None else self.stand_in.get(value, value)

        return Scheme(
            **{
                **scheme.__dict__,
                "eman_momentum": scaled(scheme.eman_momentum),
                "student_proxy_momentum": scaled(scheme.student_proxy_momentum),
                "teacher_proxy_momentum": scaled(scheme.teacher_proxy_momentum),
            }
        )

    def about_notes(self) -> tuple[str, ...]:
        """What a reader of any of its tables must know."""
        notes = [f"Profile {self.name}: {self.about}"]
        if self.stand_in:
            pairs = ", ".join(f"{ours:g} for the paper's {paper:g}" for paper, ours in self.stand_in.items())
            notes.append(f"Momenta m and α of the rows: {pairs}, as runs are that much shorter.")
        return tuple(notes)

    def notes(self, held_out: int | None = None, rates: Sequence[float] = ()) -> tuple[str, ...]:
        """What a reader of Tables 1 and 8 must know; ``held_out`` images and linear ``rates`` are the profile's own
        unless they are given.
        """
        held_out = self.common.get("held_out", 0) if held_out is None else held_out
        grids = "; ".join(
            f"{method_named(m).title} {{{', '.join(f'{lr:g}' for lr in rates or grid)}}}"
            for m, grid in self.linear_lr.items()
        )
        chosen = f"{held_out:,} training images put aside" if held_out else "the test images, as in the paper"
        results = (
            f"FixMatch: test top-1. MoCo, BYOL: linear top-1 on {100 * self.label_fraction:g} % of the labels, mean of "
            f"{self.label_sets[self.label_fraction]} label sets, rate from {grids}, chosen on {chosen}."
        )
        return (*self.about_notes(), results)


_SMALL_IMAGES = {
    "backbone": "small",  # trains in seconds on a core
    "precision": "auto",  # bfloat16 halves a step where the CPU has it
    "schedule": "cosine",
    "schedule_unit": "step",  # a run of a few epochs needs a rate that moves within them
}

#: Small profiles classify cached features: one pass over the images instead of fifty.
_CACHED: dict[str, Any] = {"linear": {"views": "cached"}}

#: The pretrained statistics are good from the start. The paper's tenth of the learning rate is for longer runs: from
#: MoCo-EMAN at profile quick, seed and label set 100, 1 % of the labels, rates of 0.06, 0.02 and 0.006 gave 68.9, 63.2
#: and 51.7 % on the images put aside.
_FROM_PRETRAINED: dict[str, Any] = {"statistics_passes": 0}

#: The tests' profile: every line of code of a sweep, in seconds, on data that scikit-learn ships. Its numbers mean
#: nothing beyond "it ran", except that they are real.
SMOKE = Profile(
    name="smoke",
    about="digits (16 px), 2 short epochs, 4 devices: a test that everything runs, not a comparison.",
    common={
        **_SMALL_IMAGES,
        "dataset": "digits",
        "devices": 4,
        "epochs": 2,
        "warmup_epochs": 0.5,
        "statistics_passes": 2,
        "held_out": 200,
        "crop_min": 0.5,
        "monitor_every": 1,
        "precision": "float32",
    },
    methods={
        "fixmatch": {
            "labelled_batch": 16,
            "batch": 64,
            "label_fraction": 0.1,
            "momentum": 0.95,
            "lr": 0.05,
            "unlabelled_weight": 1.0,
        },
        "moco": {
            "batch": 64,
            "queue": 256,
            "hidden_dim": 32,
            "projection_dim": 32,
            "momentum": 0.95,
            "lr": 0.05,
            "blur_max": None,
        },
        "byol": {
            "batch": 64,
            "hidden_dim": 32,
            "projection_dim": 32,
            "momentum": 0.95,
            "lr": 0.05,
            "optimizer": "sgd",
            "weight_decay": 1e-4,
            "blur_max": None,
        },
        "supervised": {"labelled_batch": 16, "batch": 64, "lr": 0.05},
    },
    linear_lr={"moco": (0.5, 1.0, 2.0), "byol": (0.5, 1.0, 2.0)},
    label_sets={0.01: 2, 0.1: 3, 1.0: 1},
    finetune_lr=(0.001, 0.01),
    protocols={**_CACHED, "finetune": {"batch": 32}},
    finetune_epochs={0.01: 6, 0.1: 4, 1.0: 2},
    stand_in={0.999: 0.95, 0.99999: 0.999},
    fully_supervised={"labelled_batch": 64},
    from_pretrained=_FROM_PRETRAINED,
    workers={("byol", "syncbn"): 2},
)

_FASHION = {
    **_SMALL_IMAGES,
    "dataset": "fashion-mnist",
    "statistics_passes": 20,  # the initial 0 and 1 would outlast a short run
}

_FASHION_METHODS: dict[str, dict[str, Any]] = {
    # 1 % of the labels and the whole RandAugment pool: few labels and views that shift the statistics are what brings
    # out the paper's order in small experiments.
    "fixmatch": {
        "labelled_batch": 32,
        "batch": 160,
        "label_fraction": 0.01,
        "momentum": 0.99,
        "crop_min": 0.6,
        "unlabelled_weight": 3.0,
        "lr": 0.06,
    },
    "moco": {
        "batch": 256,
        "queue": 4096,
        "hidden_dim": 64,
        "projection_dim": 64,
        "momentum": 0.99,
        "lr": 0.06,
        "blur_max": 0.5,
    },
    "byol": {
        "batch": 256,
        "hidden_dim": 128,
        "projection_dim": 64,
        "momentum": 0.95,
        "lr": 0.1,
        "optimizer": "sgd",
        "weight_decay": 1e-4,
        "blur_max": 0.5,
    },
    "supervised": {"labelled_batch": 32, "batch": 160, "label_fraction": 0.01, "crop_min": 0.6, "lr": 0.06},
}

#: Tables 1 and 8 in minutes on two cores. Long enough that the networks learn, far too short to settle the order.
QUICK = Profile(
    name="quick",
    about="Fashion-MNIST, 8,192 training images, small ResNet, runs of 128 to 252 steps: a first look, too short to "
    "settle the order of schemes.",
    common={**_FASHION, "images": 8192, "held_out": 5000, "warmup_epochs": 0.5, "monitor_every": 1},
    # Half of mini's batch and of its devices, so that a device still sees 8 images; FixMatch's see 4.
    methods={
        "fixmatch": {**_FASHION_METHODS["fixmatch"], "batch": 128, "devices": 32, "epochs": 4},
        "moco": {**_FASHION_METHODS["moco"], "batch": 128, "devices": 16, "epochs": 3},
        "byol": {**_FASHION_METHODS["byol"], "batch": 128, "devices": 16, "epochs": 2},
        "supervised": {**_FASHION_METHODS["supervised"], "batch": 128, "devices": 32, "epochs": 60},
    },
    # The paper's grids divided by 30 (MoCo) and multiplied by 2.5 (BYOL): 64 features instead of 2,048.
    linear_lr={"moco": (0.5, 1.0, 2.0), "byol": (0.5, 1.0, 2.0)},
    stand_in={0.999: 0.99, 0.99999: 0.9999},
    # Batches that 1 % of the images fill. Fifty epochs of all images would outlast the pretraining.
    protocols={**_CACHED, "finetune": {"batch": 32}},
    finetune_epochs={0.01: 50, 0.1: 20, 1.0: 4},
    fully_supervised={"labelled_batch": 128, "epochs": 4},
    from_pretrained=_FROM_PRETRAINED,
    workers={("byol", "syncbn"): 2},  # so that every quick sweep also trains by DDP
)

#: A small reproduction: hours on two cores. All training images, runs ten times longer. docs/mini-profile.md has the
#: experiments behind its values.
MINI = Profile(
    name="mini",
    about="Fashion-MNIST, 50,000 training images, small ResNet, 64 devices of 4 images, runs of 1,170 to 2,060 steps; "
    "FixMatch with 500 labels.",
    # Four images a device: their statistics are as noisy as the paper's schemes suffer from, and two make BYOL fail.
    common={**_FASHION, "held_out": 10000, "devices": 64, "warmup_epochs": 0.5, "monitor_every": 2},
    methods={
        "fixmatch": {
            **_FASHION_METHODS["fixmatch"],
            "labelled_batch": 64,  # one a device, and three unlabelled
            "batch": 192,
            "unlabelled_weight": 10.0,  # the paper's; the smaller, the less wrong pseudo-labels cost
            "lr": 0.03,
            "epochs": 8,
        },
        "moco": {**_FASHION_METHODS["moco"], "epochs": 10},
        "byol": {**_FASHION_METHODS["byol"], "momentum": 0.98, "lr": 0.3, "epochs": 6},  # the paper's momentum
        "supervised": {**_FASHION_METHODS["supervised"], "devices": 32, "epochs": 200},
    },
    label_fraction=0.01,  # 50 labels a class; the paper has 128
    linear_lr={"moco": (1.0, 2.0, 4.0, 8.0), "byol": (1.0, 2.0, 4.0, 8.0)},
    stand_in={0.999: 0.99, 0.99999: 0.9999},
    protocols={**_CACHED, "finetune": {"batch": 64}},
    finetune_epochs={0.01: 50, 0.1: 50, 1.0: 10},
    fully_supervised={"labelled_batch": 256, "epochs": 14},
    from_pretrained=_FROM_PRETRAINED,
)

#: kNN as the published numbers on small images have it: 200 neighbours, votes weighed by exp(cosine / 0.1).
_KNN_200: dict[str, Any] = {"k": 200, "temperature": 0.1}

#: FixMatch as USB and kekmodel/FixMatch-pytorch train it on small images. Theirs differ in what no field says: a
#: WRN-28-2, Nesterov momentum, Cutout after RandAugment, a batch-norm momentum of 0.001, a cosine that ends before 0.
_FIXMATCH_PEERS: dict[str, Any] = {
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
_SUPERVISED_SMALL: dict[str, Any] = {"lr": 0.03, "weight_decay": 5e-4, "labelled_batch": 64, "crop_min": 0.75}
_FULLY_SUPERVISED_SMALL: dict[str, Any] = {"lr": 0.1, "labelled_batch": 128, "epochs": 200}

#: The self-supervised recipes behind the published numbers of ResNet-18 on CIFAR-10, for a GPU: MoCo's own notebook
#: (kNN 82.6 after 200 epochs, 88.7 after 800), Lightly's benchmark for BYOL (86.9 after 200, batch 128). Both train on
#: all 50,000 images; ``--set held_out=0`` does, too, and then chooses on the test images, as they do.
CIFAR10 = Profile(
    name="cifar10",
    about="CIFAR-10, 45,000 training images, ResNet-18 for small images, 8 devices; FixMatch with 4,000 labels. The "
    "recipes of the published numbers, on a tenth fewer images.",
    common={
        "dataset": "cifar10",
        "backbone": "resnet18-small",  # a 3x3 stem of stride 1 and no pooling, as all of them have it
        "precision": "auto",
        "held_out": 5000,  # for choices; 500 a class
        "devices": 8,  # the notebook's SplitBatchNorm of 8
        "schedule": "cosine",
        "epochs": 200,
        "warmup_epochs": 0.0,  # none of them has one
        "monitor_every": 10,
    },
    methods={
        # 2^15 steps, a thirty-second of the published numbers', of which a table's runs would take weeks; `eman train
        # fixmatch --set epochs=11520` is as long as theirs.
        "fixmatch": {**_FIXMATCH_PEERS, "label_fraction": 4_000 / 45_000, "epochs": 360},
        # The notebook. Its head is one linear layer; ours is MoCo v2's, as wide within as the backbone's output.
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
            "blur_max": None,
        },
        # Lightly, whose m stays at 0.99; ours rises from there to 1, as BYOL's does. It solarizes nothing.
        "byol": {
            "batch": 128,
            "optimizer": "sgd",
            "lr": 0.06,
            "weight_decay": 5e-4,
            "momentum": 0.99,
            "hidden_dim": 1024,
            "projection_dim": 256,
            "crop_min": 0.08,
            "blur_max": None,
        },
        "supervised": {**_SUPERVISED_SMALL, "label_fraction": 4_000 / 45_000},
    },
    # MoCo: the paper's, as the notebook recommends 30. BYOL: no rate is published for a BYOL trained by SGD; from the
    # paper's lowest upwards.
    linear_lr={"moco": (15.0, 30.0, 60.0), "byol": (0.2, 1.0, 5.0)},
    protocols={"knn": _KNN_200, "finetune": {"batch": 64}},  # a batch that 1 % of the images fill
    fully_supervised=_FULLY_SUPERVISED_SMALL,
    from_pretrained={"lr": 0.003},  # the paper's tenth of the rate
)

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
        "held_out": 500,  # of the 5,000 labelled, for choices
        "devices": 8,
        "schedule": "cosine",
        "epochs": 320,
        "warmup_epochs": 0.0,  # its MoCo has none
        "monitor_every": 10,
    },
    methods={
        # About 2^15 steps, as at profile cifar10. TorchSSL's network is a WRN-37-2 (93.8 % with 1,000 labels).
        "fixmatch": {**_FIXMATCH_PEERS, "label_fraction": 1_000 / 4_500, "epochs": 140},
        "moco": {
            "batch": 256,
            "lr": 0.5,
            "queue": 65536,
            "momentum": 0.996,
            "temperature": 0.2,
            "projection_dim": 128,
            "hidden_dim": 512,
            "blur_max": 0.86,  # the official 2 at 224 px, at 96
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
        "supervised": {**_SUPERVISED_SMALL, "label_fraction": 1_000 / 4_500, "epochs": 200},
    },
    linear_lr={"moco": (15.0, 30.0, 60.0), "byol": (0.2, 1.0, 5.0)},  # as at profile cifar10
    label_fraction=1.0,  # the published number's
    protocols={"knn": _KNN_200, "finetune": {"batch": 32}},  # a batch that 1 % of the labels fill
    fully_supervised=_FULLY_SUPERVISED_SMALL,
    from_pretrained={"lr": 0.003},
)

#: The paper's own scale: the defaults of RunSpec and of the methods' entries are its values.
IMAGENET = Profile(
    name="imagenet",
    about="ImageNet, ResNet-50, 8 devices: the paper's hyper-parameters.",
    common={"dataset": "imagenet", "image_size": 224},
    methods={
        "moco": {"warmup_epochs": 5.0},
        "byol": {"lars_exclude": "official"},  # official code, main_byol.py: by name, heads' norms not among them
        "fixmatch": {},
        "supervised": {},
    },
    linear_lr={"moco": (15.0, 30.0, 60.0), "byol": (0.2, 0.4, 0.8)},
    # torchvision's recipe for the ResNet-50 that the paper's supervised rows take: 90 epochs, 0.1, a tenth every 30.
    fully_supervised={"labelled_batch": 256, "epochs": 90, "lr": 0.1, "milestones": (1 / 3, 2 / 3)},
    # 200 epochs, and a warm-up of 10, as in the README of the official code.
    pretraining={method: {"epochs": 200, "warmup_epochs": 10.0} for method in ("moco", "byol")},
    # Section 5.3: 50 epochs at 1 %, 100 at 10 %.
    semi_supervised={0.01: {"epochs": 50}, 0.1: {"epochs": 100}},
    # ImageNet's networks serve VOC2007; iNaturalist has networks of its own, of 1,000 and 200 epochs (Section 5.2).
    low_shot={
        "ImageNet": LowShot(),
        "VOC2007": LowShot(dataset="voc2007", several=True),
        "iNaturalist": LowShot(dataset="inaturalist", pretrained={"moco": {"epochs": 1000}, "byol": {"epochs": 200}}),
    },
    from_pretrained={"lr": 0.003},
)

#: Every profile by name.
PROFILES = {profile.name: profile for profile in (SMOKE, QUICK, MINI, CIFAR10, STL10, IMAGENET)}


def profile_named(name: str) -> Profile:
    """The profile of that name.

    Raises:
        UserError: There is none.
    """
    return named("profile", name, PROFILES)


def check_rates(rates: tuple[float, ...]) -> None:
    """Raises :class:`UserError` unless all learning rates are positive."""
    for rate in rates:
        if rate <= 0:
            raise UserError(f"--linear-lr {rate}: a learning rate must be greater than 0.")
