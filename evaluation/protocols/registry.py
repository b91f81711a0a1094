"""The protocols as data: a name, the paper's values for its fields, and what it makes of a finished run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eman.evaluation.features import Features
from eman.evaluation.protocols import finetune, knn, linear, lowshot, retrieval
from eman.evaluation.trained import Trained
from eman.platform.errors import RunFailed, UserError, named
from eman.trainers.spec.run import EvalSpec

#: An evaluation's metrics, or why it has none.
Result = dict[str, float] | RunFailed


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A way to evaluate a run.

    Attributes:
        title: For people.
        fields: The EvalSpec fields that only some protocols use, with the paper's values for this one.
        shown: Those that tell one evaluation of a run from another, in its title.
        grid: The field that is searched, if any; evaluations that differ in it alone are carried out together.
        evaluate: From specifications that differ in ``grid`` alone, and a run, to one result each.
        images: How many images go through the network for such specifications, given the run's training images; the
            features of all images are not counted, which all protocols share.
    """

    title: str
    fields: Mapping[str, Any]
    shown: tuple[str, ...]
    grid: str = ""
    evaluate: Callable[[Sequence[EvalSpec], Trained], list[Result]]
    images: Callable[[Sequence[EvalSpec], int], int] = lambda specs, images: 0


def _of_features(evaluate: Callable[[EvalSpec, Features], dict[str, float]]) -> Callable[..., list[Result]]:
    """A protocol of frozen features, one specification after the other."""

    def evaluated(specs: Sequence[EvalSpec], trained: Trained) -> list[Result]:
        return [evaluate(spec, trained.features) for spec in specs]

    return evaluated


def _knn(spec: EvalSpec, found: Features) -> dict[str, float]:
    assert spec.k is not None
    predicted_M = knn.predict(found.train_ND, found.train_labels_N, found.test_ND, spec.k, spec.temperature)
    return {"knn/test_top1": knn.percent(predicted_M, found.test_labels_N)}


def _retrieval(spec: EvalSpec, found: Features) -> dict[str, float]:
    assert spec.top is not None
    return retrieval.evaluate(found.train_ND, found.train_labels_N, found.test_ND, found.test_labels_N, spec.top)


def _labelled_images(spec: EvalSpec, images: int) -> int:
    return round((spec.label_fraction or 1) * images) * (spec.label_sets or 1) * (spec.epochs or 1)


#: Every protocol by name. A new one is one entry.
PROTOCOLS = {
    "linear": Protocol(
        title="linear",
        fields={
            "lr": 30.0,
            "epochs": 50,
            "milestones": (0.6, 0.8),  # 30 and 40 of 50 epochs
            "batch": 256,
            "label_fraction": 0.1,
            "label_sets": 3,  # five at 1 %, three at 10 % (Section 5.2)
            "views": "augmented",
            "crop_min": 0.08,
        },
        shown=("label_fraction", "views", "lr"),
        grid="lr",
        evaluate=linear.evaluate,
        # All rates share a pass.
        images=lambda specs, images: _labelled_images(specs[0], images) if specs[0].views == "augmented" else 0,
    ),
    "finetune": Protocol(
        title="finetune",
        fields={
            "lr": 0.001,
            "head_lr": 0.1,  # 1.0 at 1 % of the labels
            "epochs": 50,
            "milestones": (0.6, 0.8),
            "batch": 256,
            "weight_decay": 1e-4,
            "label_fraction": 0.1,
            "label_sets": 3,
            "crop_min": 0.08,
        },
        shown=("label_fraction", "lr"),
        grid="lr",
        evaluate=finetune.evaluate,
        images=lambda specs, images: sum(_labelled_images(spec, images) for spec in specs),
    ),
    "knn": Protocol(
        title="kNN",
        fields={"k": 20, "temperature": None},
        shown=("k", "temperature"),
        evaluate=_of_features(_knn),
    ),
    "retrieval": Protocol(title="retrieval", fields={"top": 1000}, shown=("top",), evaluate=_of_features(_retrieval)),
    "lowshot": Protocol(
        title="low-shot",
        fields={"shots": 1, "label_sets": 5},
        shown=("shots",),
        evaluate=_of_features(lowshot.evaluate),
    ),
}

_SPECIAL = tuple(dict.fromkeys(name for protocol in PROTOCOLS.values() for name in protocol.fields))


def protocol_named(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        UserError: There is none.
    """
    return named("protocol", name, PROTOCOLS)


def make_eval(protocol: str, run: str, **fields: Any) -> EvalSpec:
    """An evaluation's specification: the paper's values, then ``fields``.

    Args:
        protocol: A name in :data:`PROTOCOLS`.
        run: Key of the training.
        fields: EvalSpec fields that override the paper's values.

    Raises:
        UserError: The protocol is unknown, a field is not its own, or a value is out of range.
    """
    own = protocol_named(protocol).fields
    for name in fields:
        if name in _SPECIAL and name not in own:
            raise UserError(f"{name} is not a field of {protocol}; its own fields are: {', '.join(own)}.")
    merged = {**own, **fields}
    if merged.get("views") == "cached":  # nothing is cropped
        merged["crop_min"] = None
    return EvalSpec(run=run, protocol=protocol, **merged)


def eval_title(spec: EvalSpec) -> str:
    """A readable name, for example ``linear · 10 % · lr 0.5``."""
    entry = protocol_named(spec.protocol)
    shown = [_shown(name, getattr(spec, name)) for name in entry.shown if getattr(spec, name) is not None]
    other = [value for value in (spec.network, spec.selection) if value not in ("student", "last")]
    return " · ".join([entry.title, *filter(None, shown), *other, *([f"on {spec.dataset}"] if spec.dataset else [])])


def _shown(name: str, value: Any) -> str:
    if name == "label_fraction":
        return f"{100 * value:g} %"
    if name == "views":
        return "" if value == "cached" else str(value)
    return f"{name} {value:g}"


def group_key(spec: EvalSpec) -> str:
    """The same for evaluations that one process carries out at once: of one run, and different in the grid alone."""
    grid = protocol_named(spec.protocol).grid
    return (spec.replace(**{grid: None}) if grid else spec).key


def together(specs: Sequence[EvalSpec]) -> list[tuple[EvalSpec, ...]]:
    """Evaluations by :func:`group_key`."""
    groups: dict[str, list[EvalSpec]] = {}
    for spec in specs:
        groups.setdefault(group_key(spec), []).append(spec)
    return [tuple(group) for group in groups.values()]


def group_title(specs: Sequence[EvalSpec]) -> str:
    """A readable name for such a group, for example ``linear · 10 % · 3 of lr``."""
    grid = protocol_named(specs[0].protocol).grid
    if len(specs) == 1 or not grid:
        return eval_title(specs[0])
    return f"{eval_title(specs[0].replace(**{grid: None}))} · {len(specs)} of {grid}"


def evaluate(specs: Sequence[EvalSpec], trained: Trained) -> list[Result]:
    """The results of specifications that :func:`together` put together, one each.

    Raises:
        UserError: The run cannot be evaluated so.
        RunFailed: The run has collapsed.
    """
    return protocol_named(specs[0].protocol).evaluate(specs, trained)
