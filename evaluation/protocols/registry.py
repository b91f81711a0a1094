"""All protocols by name."""

from typing import Any

from eman.evaluation.protocols import finetune, knn, linear, lowshot, retrieval
from eman.evaluation.protocols.protocol import Protocol
from eman.platform.errors import UserError, named
from eman.platform.registry import Registry
from eman.trainers.spec.kinds import check_kinds

#: Every protocol by name. Add one with :func:`register_protocol`.
PROTOCOLS = Registry[Protocol[Any]]("protocol")

#: Names of shared fields, which a protocol's fields cannot have.
RESERVED = ("run", "dataset", "network", "selection", "seed", "protocol", "name")


def register_protocol(entry: Protocol[Any]) -> None:
    """Add a protocol; raise :class:`UserError` if its name or a field's is taken, or a field has no type to parse."""
    check_kinds(f"protocol {entry.name!r}", entry.spec)
    clash = [name for name in entry.spec.model_fields if name in RESERVED]
    if clash:
        raise UserError(f"protocol {entry.name!r} has a field {clash[0]!r}, which every evaluation has; rename it.")
    PROTOCOLS.add(entry.name, entry)


def protocol_named(name: str) -> Protocol[Any]:
    """Return the protocol of that name; raise :class:`UserError` if there is none."""
    return named("protocol", name, PROTOCOLS)


for _entry in (linear.PROTOCOL, finetune.PROTOCOL, knn.PROTOCOL, retrieval.PROTOCOL, lowshot.PROTOCOL):
    register_protocol(_entry)
