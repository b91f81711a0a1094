"""`EvalSpec`: what identifies an evaluation.

Its key is a hash over every field that can change the result, and over nothing else.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, SerializeAsAny, field_validator
from pydantic.fields import FieldInfo

from eman.evaluation.protocols.protocol import Protocol, ProtocolSpec
from eman.evaluation.protocols.registry import protocol_named
from eman.evaluation.protocols.sizes import EvalSizes
from eman.platform.errors import UserError, unknown
from eman.trainers.data import names
from eman.trainers.spec.kinds import Value, kind_of
from eman.trainers.spec.section import Section, digest

#: Raised by one when a change of code changes the result of an evaluation with unchanged fields.
EVALUATION_VERSION = 1

NetworkName = Literal["student", "teacher"]
SelectionName = Literal["last", "best"]
NETWORKS: tuple[str, ...] = get_args(NetworkName)
SELECTIONS: tuple[str, ...] = get_args(SelectionName)

#: Fields that ``--set`` does not take, and what says them instead.
_NOT_BY_HAND = {"run": "the run is the command's argument", "protocol": "give --protocol NAME"}


class EvalSpec(Section):
    """One evaluation of one training run (Section 5.2).

    Raises:
        UserError: A field's value is not allowed, or two fields contradict each other.
    """

    run: Annotated[str, Field(pattern=r"^\w+$", description="Key of the training run.")]
    dataset: Annotated[
        str | None,
        Field(max_length=1000, description="Data set that it is evaluated on; none: the one it was trained on."),
    ] = None
    network: Annotated[NetworkName, Field(description="Which network is evaluated.")] = "student"
    selection: Annotated[SelectionName, Field(description="After which epoch; best: on the held-out images.")] = "last"
    seed: Annotated[int, Field(ge=0, lt=2**32, description="Seed of what the protocol draws.")] = 0
    protocol: SerializeAsAny[ProtocolSpec]

    @field_validator("dataset")
    @classmethod
    def _resolve(cls, name: str | None) -> str | None:
        """Keep ``PATH@HASH`` of a path, so that other images make another evaluation."""
        return None if name is None else names.resolve(name)

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits that stand for this evaluation and for no other."""
        fields = self.flat()
        if self.dataset is not None:
            fields["dataset"] = names.identity(self.dataset)
        return digest({"evaluation_version": EVALUATION_VERSION, **fields})

    @property
    def entry(self) -> Protocol[Any]:
        """Its protocol's declaration."""
        return protocol_named(self.protocol.name)

    def flat(self) -> dict[str, Any]:
        """Return all fields that count as plain values by name, the protocol's among them."""
        common = {name: getattr(self, name) for name in type(self).model_fields if name != "protocol"}
        fields = {name: value for name, value in common.items() if value is not None}
        return {**fields, "protocol": self.protocol.name, **self.protocol.flat()}

    @classmethod
    def from_flat(cls, fields: Mapping[str, Any]) -> Self:
        """Make a specification of plain values: the inverse of :meth:`flat`. What is absent has its default.

        Raises:
            UserError: The protocol or a field is unknown, or a value is not allowed.
        """
        if "protocol" not in fields:
            raise UserError("an evaluation needs a protocol; give protocol=NAME.")
        section = protocol_named(str(fields["protocol"])).spec
        common, own = dict[str, Any](), dict[str, Any]()
        for name, value in fields.items():
            if name == "protocol":
                continue
            if name in section.model_fields:
                own[name] = tuple(value) if isinstance(value, list) else value
            elif name in cls.model_fields:
                common[name] = value
            else:
                raise unknown_field(section.name, name)
        return cls(**common, protocol=section(**own))

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed, by their flat names."""
        return self.from_flat({**self.flat(), **changes})


def make_eval(protocol: str, run: str, **fields: Any) -> EvalSpec:
    """Return an evaluation's specification: the paper's values, then ``fields``.

    Args:
        protocol: A protocol's name.
        run: Key of the training.
        fields: Fields that override the paper's values, by their flat names.

    Raises:
        UserError: The protocol is unknown, a field is not its own, or a value is not allowed.
    """
    return EvalSpec.from_flat({**fields, "protocol": protocol, "run": run})


def settable(protocol: str) -> dict[str, FieldInfo]:
    """Return the fields that ``--set`` takes for a protocol, by name: its own first."""
    common = {name: field for name, field in EvalSpec.model_fields.items() if name not in _NOT_BY_HAND}
    return {**protocol_named(protocol).spec.model_fields, **common}


def unknown_field(protocol: str, name: str) -> UserError:
    """Return the error for a field that a protocol does not have."""
    return unknown(f"field of {protocol}", name, settable(protocol))


def parse_eval_fields(protocol: str, pairs: Sequence[str]) -> dict[str, Value]:
    """Read ``["k=5", "temperature=0.1"]`` as fields of a protocol's evaluation.

    Raises:
        UserError: A pair has no ``=``, a field is not the protocol's or cannot be set, or a value is of another type.
    """
    allowed = settable(protocol)
    values: dict[str, Value] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise UserError(f"--set {pair!r}: give FIELD=VALUE, for example --set {next(iter(allowed))}=VALUE.")
        if name in _NOT_BY_HAND:
            raise UserError(f"{name} cannot be set by hand; {_NOT_BY_HAND[name]}.")
        if name not in allowed:
            raise unknown_field(protocol, name)
        kind = kind_of(allowed[name])
        values[name] = text if kind is None else kind.parse(name, text)
    return values


def check(spec: EvalSpec, sizes: EvalSizes) -> None:
    """Refuse an evaluation that the data cannot serve, before anything runs.

    Raises:
        UserError: For example ``k`` is larger than the training set.
    """
    entry = spec.entry
    if sizes.multi_label and not entry.multi_label:
        raise UserError(
            f"protocol {entry.name} needs one class an image, and images of {sizes.dataset} have several; evaluate by "
            f"lowshot."
        )
    entry.check(spec.protocol, sizes)
