"""The protocols as data: a name, the paper's values for its fields, and what it makes of a run's frozen features."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from eman.evaluation import knn, linear, lowshot, retrieval
from eman.evaluation.features import Features
from eman.platform.errors import UserError, named
from eman.platform.spec import EvalSpec


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A way to evaluate frozen features.

    Attributes:
        title: For people.
        fields: The EvalSpec fields that only some protocols use, with the paper's values for this one.
        shown: Those that tell one evaluation of a run from another, in its title.
        evaluate: From a specification and a run's features to metrics.
    """

    title: str
    fields: Mapping[str, Any]
    shown: tuple[str, ...]
    evaluate: Callable[[EvalSpec, Features], dict[str, float]]


def _knn(spec: EvalSpec, found: Features) -> dict[str, float]:
    assert spec.k is not None
    predicted_M = knn.predict(found.train_ND, found.train_labels_N, found.test_ND, spec.k, spec.temperature)
    return {"knn/test_top1": knn.percent(predicted_M, found.test_labels_N)}


def _retrieval(spec: EvalSpec, found: Features) -> dict[str, float]:
    assert spec.top is not None
    return retrieval.evaluate(found.train_ND, found.train_labels_N, found.test_ND, found.test_labels_N, spec.top)


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
        },
        shown=("lr",),
        evaluate=linear.evaluate,
    ),
    "knn": Protocol(
        title="kNN",
        fields={"k": 20, "temperature": None},
        shown=("k", "temperature"),
        evaluate=_knn,
    ),
    "retrieval": Protocol(title="retrieval", fields={"top": 1000}, shown=("top",), evaluate=_retrieval),
    "lowshot": Protocol(
        title="low-shot",
        fields={"shots": 1, "label_sets": 5},
        shown=("shots",),
        evaluate=lowshot.evaluate,
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
    return EvalSpec(run=run, protocol=protocol, **{**own, **fields})


def eval_title(spec: EvalSpec) -> str:
    """A readable name, for example ``linear · lr 0.5``."""
    entry = protocol_named(spec.protocol)
    shown = [f"{name} {getattr(spec, name):g}" for name in entry.shown if getattr(spec, name) is not None]
    other = [value for value in (spec.network, spec.selection) if value not in ("student", "last")]
    return " · ".join([entry.title, *shown, *other])
