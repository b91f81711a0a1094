"""Profiles: the fields of the paper's runs and evaluations at some scale."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from eman.platform.machine import fast_bf16
from eman.sweeps.profiles.scaling import EmaScaling, note, scaled_run
from eman.trainers.data.catalog import MOST_LABEL_SETS
from eman.trainers.methods.registry import method_named
from eman.trainers.norm.schemes import TEACHER_NORMS, Move, Scheme
from eman.trainers.spec.build import make_spec, resolve_scheme
from eman.trainers.spec.run import RunSpec

#: Precision that becomes bfloat16 where this machine computes it fast, else float32.
AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class LowShot:
    """A block of Table 5.

    Attributes:
        dataset: Data set; `None` for the profile's.
        several: Whether an image can have several classes.
        pretrained: Fields by method of networks pretrained on it; empty for the profile's networks.
    """

    dataset: str | None = None
    several: bool = False
    pretrained: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A scale. "Fields" are those of a run's specification.

    Attributes:
        name: Name on the command line.
        about: One-line description for notes and help.
        recipe: Longer description for `eman profiles NAME`: source, cost, numbers to expect, commands of variants.
        common: Fields for every method.
        methods: Fields for single methods.
        linear_lr: Learning rates to search in linear evaluation, by method. The paper's are {15, 30, 60} for MoCo and
            {0.2, 0.4, 0.8} for BYOL.
        label_fraction: Share of labels for linear evaluation in Tables 1 and 8.
        label_sets: Number of label sets to average at a share of labels (Section 5.2: five at 1 %, three at 10 %).
        finetune_lr: Encoder learning rates to search in finetuning (Section 5.2).
        head_lr: Learning rate of the new classifier in finetuning, by share of labels. The paper has 1.0 at 1 % and
            0.1 at 10 %, and gives none at 100 %.
        finetune_epochs: Epochs of finetuning, by share of labels.
        protocols: Evaluation fields by protocol that differ from the paper's.
        ema_scaling: Take the paper's momenta m of Eqs. (1) and (9), scaled by the EMA scaling rule, instead of this
            profile's own; see :mod:`~eman.sweeps.profiles.scaling`.
        stand_in: Replacements, in shorter runs, of the momenta in the paper's rows (m of Eq. (9), alpha of Eq. (4)).
            Other momenta are unchanged.
        fully_supervised: Fields of the supervised network with all labels (Tables 2, 4 and 5).
        pretraining: Fields by method for the pretrained networks of Tables 2 to 6, where they differ from Table 1's.
        semi_supervised: Fields of Table 6's FixMatch, by share of labels.
        low_shot: Blocks of Table 5 by the paper's name. The first stands for the data set of pretraining.
        from_pretrained: Fields of a FixMatch that starts from a pretrained network (Section 5.3).
        workers: Number of workers by (method, scheme), unless `--workers` is given.
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
    ema_scaling: EmaScaling = "none"
    stand_in: Mapping[float, float] = field(default_factory=dict)
    fully_supervised: Mapping[str, Any] = field(default_factory=dict)
    pretraining: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    semi_supervised: Mapping[float, Mapping[str, Any]] = field(default_factory=dict)
    low_shot: Mapping[str, LowShot] = field(default_factory=lambda: {"ImageNet": LowShot()})
    from_pretrained: Mapping[str, Any] = field(default_factory=dict)
    workers: Mapping[tuple[str, str], int] = field(default_factory=dict)
    recipe: str | None = None

    def run(self, method: str, scheme: str, seed: int = 0, overrides: Mapping[str, Any] | None = None) -> RunSpec:
        """Return the specification of a run at this scale. The seed is also the number of its label set.

        Raises:
            UserError: A name or a value is not allowed.
        """
        entry = method_named(method)
        own = self.methods.get(method, entry.profiles.get(self.name, {}))
        fields = {**self.common, **own, "seed": seed}
        if fields.get("precision") == AUTO:
            fields["precision"] = "bf16" if fast_bf16() else "float32"
        if "label_set" in entry.section.model_fields:
            fields["label_set"] = seed % MOST_LABEL_SETS
        resolved = resolve_scheme(method, scheme)
        if TEACHER_NORMS[resolved.teacher].statistics is Move.COPY:
            fields.pop("student_proxy_momentum", None)  # the scheme sets its own
        if self.ema_scaling != "none":
            fields.pop("momentum", None)  # the paper's
        spec = make_spec(method, self._with_stand_ins(resolved), fields, overrides)
        return scaled_run(spec, self.ema_scaling, overrides or {})

    def with_precision(self, precision: str) -> "Profile":
        """Return this profile with its automatic precision replaced by that of the machine that planned the sweep."""
        if self.common.get("precision") != AUTO:
            return self
        return replace(self, common={**self.common, "precision": precision})

    def linear_rates(self, method: str) -> tuple[float, ...]:
        """Return the learning rates to search; for a method without its own, all rates of the others."""
        known = sorted({rate for rates in self.linear_lr.values() for rate in rates})
        return self.linear_lr.get(method, tuple(known))

    def _with_stand_ins(self, scheme: Scheme) -> Scheme:
        """Replace a scheme's momenta by this profile's stand-ins."""
        names = ["student_proxy_momentum", "teacher_proxy_momentum"]
        names += ["eman_momentum"] if self.ema_scaling == "none" else []
        momenta: dict[str, Any] = {name: getattr(scheme, name) for name in names}
        return replace(scheme, **{name: self.stand_in.get(value, value) for name, value in momenta.items()})

    def notes(self, runs: Iterable[RunSpec] = ()) -> tuple[str, ...]:
        """Return the notes under every table at this scale; `runs` are those of the table."""
        notes = [f"Profile {self.name}: {self.about}", *filter(None, [note(runs, self.ema_scaling)])]
        if self.stand_in:
            pairs = ", ".join(f"{ours:g} for the paper's {paper:g}" for paper, ours in self.stand_in.items())
            which = "m and α" if self.ema_scaling == "none" else "α"
            notes.append(f"Momenta {which} of the rows: {pairs}, because runs are shorter.")
        return tuple(notes)

    def results_note(self, methods: Sequence[str], held_out: int | None = None, rates: Sequence[float] = ()) -> str:
        """Return a note on how each method's result is measured; `held_out` and `rates` replace the profile's."""
        entries = {method: method_named(method) for method in methods}
        classifiers = ", ".join(entry.title for entry in entries.values() if entry.classifier)
        featured = {method: entry.title for method, entry in entries.items() if not entry.classifier}
        sentences = [f"{classifiers}: test top-1."] if classifiers else []
        if featured:
            held_out = self.common.get("held_out", 0) if held_out is None else held_out
            grids = "; ".join(
                f"{title} {{{', '.join(f'{rate:g}' for rate in rates or self.linear_rates(method))}}}"
                for method, title in featured.items()
            )
            chosen = f"{held_out:,} held-out training images" if held_out else "the test images, as in the paper"
            sentences.append(
                f"{', '.join(featured.values())}: linear top-1 on {100 * self.label_fraction:g} % of the labels, mean "
                f"of {self.label_sets[self.label_fraction]} label sets, learning rate from {grids}, chosen on {chosen}."
            )
        return " ".join(sentences)
