"""`EvalSpec`: the specification of an evaluation. Its key is a hash of the fields that can change the result."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializeAsAny, field_validator
from pydantic.fields import FieldInfo

from eman.evaluation.protocols.protocol import Protocol, ProtocolSpec
from eman.evaluation.protocols.registry import protocol_named
from eman.evaluation.protocols.sizes import EvalSizes
from eman.platform.errors import UserError, unknown
from eman.trainers.data import names
from eman.trainers.spec.kinds import FieldKind, Value, kind_of, parse_pairs
from eman.trainers.spec.section import Section, digest

#: Increase it when a change of code changes results of evaluations with unchanged fields.
EVALUATION_VERSION = 1

NetworkName = Literal["student", "teacher"]
SelectionName = Literal["last", "best"]

#: Fields that ``--set`` does not accept, and what to do instead.
_NOT_BY_HAND = {"run": "the run is the command's argument", "protocol": "give --protocol NAME"}


class EvalSpec(Section):
    """One evaluation of one training run (Section 5.2).

    Raises:
        UserError: A field's value is not allowed, or two fields contradict each other.
    """

    run: Annotated[str, Field(pattern=r"^\w+$")]
    """Key of the training run."""
    dataset: Annotated[str, Field(max_length=1000)] | None = None
    """Data set to evaluate on; none: the one of the training."""
    network: NetworkName = "student"
    """Network to evaluate."""
    selection: SelectionName = "last"
    """Epoch to evaluate: the last, or the best that was monitored, on held-out images or, in a run without any, on test
    images."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the protocol's random draws."""
    protocol: SerializeAsAny[ProtocolSpec]

    @field_validator("dataset")
    @classmethod
    def _resolve(cls, name: str | None) -> str | None:
        """Turn a path into ``PATH@HASH``, so that other images make another evaluation."""
        return None if name is None else names.resolve(name)

    @property
    def key(self) -> str:
        """Sixteen hexadecimal digits that identify the evaluation."""
        fields = self.flat()
        if self.dataset is not None:
            fields["dataset"] = names.identity(self.dataset)
        own = {} if self.entry.version == 1 else {"protocol_version": self.entry.version}
        return digest({"evaluation_version": EVALUATION_VERSION, **own, **fields})

    @property
    def entry(self) -> Protocol[Any]:
        return protocol_named(self.protocol.name)

    def flat(self) -> dict[str, Any]:
        """Return all fields that can change the result as plain values, including the protocol's."""
        common = {name: getattr(self, name) for name in type(self).model_fields if getattr(self, name) is not None}
        return {**common, "protocol": self.protocol.name, **self.protocol.flat()}

    @classmethod
    def from_flat(cls, fields: Mapping[str, Any]) -> Self:
        """Return the specification with these values, the inverse of :meth:`flat`; absent fields have their defaults.

        Raises:
            UserError: The protocol or a field is unknown, or a value is not allowed.
        """
        section = protocol_named(str(fields["protocol"])).spec
        for name in fields:
            if name not in section.model_fields and name not in cls.model_fields:
                raise unknown_field(section.name, name)
        own = {name: value for name, value in fields.items() if name in section.model_fields}
        own = {name: tuple(value) if isinstance(value, list) else value for name, value in own.items()}
        common = {name: value for name, value in fields.items() if name not in own and name != "protocol"}
        return cls(**common, protocol=section(**own))

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed, by their flat names."""
        return self.from_flat({**self.flat(), **changes})


def make_eval(protocol: str, run: str, **fields: Any) -> EvalSpec:
    """Return an evaluation of the training with key ``run``: the paper's values, overridden by ``fields``.

    Raises:
        UserError: The protocol or a field is unknown, or a value is not allowed.
    """
    return EvalSpec.from_flat({**fields, "protocol": protocol, "run": run})


def settable(protocol: str) -> dict[str, FieldInfo]:
    """Return the fields that ``--set`` accepts for a protocol by name, its own first."""
    common = {name: field for name, field in EvalSpec.model_fields.items() if name not in _NOT_BY_HAND}
    return {**protocol_named(protocol).spec.model_fields, **common}


def unknown_field(protocol: str, name: str) -> UserError:
    """Return the error for a field that a protocol does not have."""
    return unknown(f"field of {protocol}", name, settable(protocol))


def parse_eval_fields(protocol: str, pairs: Sequence[str]) -> dict[str, Value]:
    """Parse ``["k=5", "temperature=0.1"]`` into typed values by name.

    Raises:
        UserError: A pair lacks ``=``, a field is unknown or cannot be set, or a value has the wrong type.
    """
    allowed = settable(protocol)

    def find(name: str) -> tuple[str, FieldKind | None]:
        if name in _NOT_BY_HAND:
            raise UserError(f"{name} cannot be set by hand; {_NOT_BY_HAND[name]}.")
        if name not in allowed:
            raise unknown_field(protocol, name)
        return name, kind_of(allowed[name])

    return parse_pairs(pairs, find, f"{next(iter(allowed))}=VALUE")


def check(spec: EvalSpec, sizes: EvalSizes) -> None:
    """Raise :class:`UserError` if an evaluation does not fit a data set, for example if ``k`` exceeds its size."""
    entry = spec.entry
    if sizes.multi_label and not entry.multi_label:
        raise UserError(
            f"protocol {entry.name} needs one class per image, and images of {sizes.dataset} have several; evaluate by "
            f"lowshot."
        )
    spec.protocol.check(sizes)
