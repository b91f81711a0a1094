"""What a module of one's own imports: the stable part of this package.

- ``register_*`` add schemes, norms, methods, backbones, protocols, profiles, tables and claims, as what is built in.
- ``Method``, ``Parts``, ``Criterion`` and the sections are a method; ``Scheme``, ``StudentNorm``, ``TeacherNorm``,
  ``Move`` and ``StatisticsRule`` a scheme; ``Table``, ``Cell``, ``Wanted`` and ``Scope`` a table; ``Claim``,
  ``Contrast``, ``CellRef`` and ``Expect`` a claim; ``Protocol``, ``ProtocolSpec`` and ``Measured`` a protocol.
- ``Teacher`` and ``convert_norm`` work in any PyTorch loop.
- ``run``, ``sweep`` and ``results`` do what ``eman train``, ``eman sweep`` and a look into the store do.

A name is imported when it is used, so that a module of schemes and tables alone needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eman.evaluation.protocols.protocol import Measured, Protocol, ProtocolSpec
    from eman.evaluation.protocols.registry import register_protocol
    from eman.evaluation.results.cells import Cell, Table, Wanted
    from eman.evaluation.results.claims import CellRef, Claim, Contrast, Expect
    from eman.platform.errors import UserError
    from eman.sweeps.claims.registry import register_claim
    from eman.sweeps.library import results, run, sweep
    from eman.sweeps.profiles.profile import Profile
    from eman.sweeps.profiles.registry import profile_named, register_profile
    from eman.sweeps.tables.registry import register_table
    from eman.sweeps.tables.scope import Scope
    from eman.trainers.backbones.registry import register_backbone
    from eman.trainers.data.own import register_dataset
    from eman.trainers.distributed import gather_rows
    from eman.trainers.losses.criterion import Criterion, Parts
    from eman.trainers.methods.method import Method
    from eman.trainers.methods.momentum import along_cosine
    from eman.trainers.methods.registry import register_method
    from eman.trainers.norm.convert import convert_norm
    from eman.trainers.norm.rules import StatisticsRule
    from eman.trainers.norm.schemes import (
        Move,
        Scheme,
        StudentNorm,
        TeacherNorm,
        register_norm,
        register_scheme,
        register_teacher_norm,
    )
    from eman.trainers.norm.teacher import Teacher
    from eman.trainers.spec.method import LabelledSection, SemiSupervisedSection, TeacherSection, UnlabelledSection
    from eman.trainers.spec.run import RunSpec
    from eman.trainers.spec.sections import OptimSpec
    from eman.trainers.views.options import ViewOptions

__all__ = [
    "Cell",
    "CellRef",
    "Claim",
    "Contrast",
    "Criterion",
    "Expect",
    "LabelledSection",
    "Measured",
    "Method",
    "Move",
    "OptimSpec",
    "Parts",
    "Profile",
    "Protocol",
    "ProtocolSpec",
    "RunSpec",
    "Scheme",
    "Scope",
    "SemiSupervisedSection",
    "StatisticsRule",
    "StudentNorm",
    "Table",
    "Teacher",
    "TeacherNorm",
    "TeacherSection",
    "UnlabelledSection",
    "UserError",
    "ViewOptions",
    "Wanted",
    "along_cosine",
    "convert_norm",
    "gather_rows",
    "profile_named",
    "register_backbone",
    "register_claim",
    "register_dataset",
    "register_method",
    "register_norm",
    "register_profile",
    "register_protocol",
    "register_scheme",
    "register_table",
    "register_teacher_norm",
    "results",
    "run",
    "sweep",
]

#: The module of each name.
_MODULES = {
    "Cell": "eman.evaluation.results.cells",
    "CellRef": "eman.evaluation.results.claims",
    "Claim": "eman.evaluation.results.claims",
    "Contrast": "eman.evaluation.results.claims",
    "Criterion": "eman.trainers.losses.criterion",
    "Expect": "eman.evaluation.results.claims",
    "LabelledSection": "eman.trainers.spec.method",
    "Measured": "eman.evaluation.protocols.protocol",
    "Method": "eman.trainers.methods.method",
    "Move": "eman.trainers.norm.schemes",
    "OptimSpec": "eman.trainers.spec.sections",
    "Parts": "eman.trainers.losses.criterion",
    "Profile": "eman.sweeps.profiles.profile",
    "Protocol": "eman.evaluation.protocols.protocol",
    "ProtocolSpec": "eman.evaluation.protocols.protocol",
    "RunSpec": "eman.trainers.spec.run",
    "Scheme": "eman.trainers.norm.schemes",
    "Scope": "eman.sweeps.tables.scope",
    "SemiSupervisedSection": "eman.trainers.spec.method",
    "StatisticsRule": "eman.trainers.norm.rules",
    "StudentNorm": "eman.trainers.norm.schemes",
    "Table": "eman.evaluation.results.cells",
    "Teacher": "eman.trainers.norm.teacher",
    "TeacherNorm": "eman.trainers.norm.schemes",
    "TeacherSection": "eman.trainers.spec.method",
    "UnlabelledSection": "eman.trainers.spec.method",
    "UserError": "eman.platform.errors",
    "ViewOptions": "eman.trainers.views.options",
    "Wanted": "eman.evaluation.results.cells",
    "along_cosine": "eman.trainers.methods.momentum",
    "convert_norm": "eman.trainers.norm.convert",
    "gather_rows": "eman.trainers.distributed",
    "profile_named": "eman.sweeps.profiles.registry",
    "register_backbone": "eman.trainers.backbones.registry",
    "register_dataset": "eman.trainers.data.own",
    "register_claim": "eman.sweeps.claims.registry",
    "register_method": "eman.trainers.methods.registry",
    "register_norm": "eman.trainers.norm.schemes",
    "register_profile": "eman.sweeps.profiles.registry",
    "register_protocol": "eman.evaluation.protocols.registry",
    "register_scheme": "eman.trainers.norm.schemes",
    "register_table": "eman.sweeps.tables.registry",
    "register_teacher_norm": "eman.trainers.norm.schemes",
    "results": "eman.sweeps.library",
    "run": "eman.sweeps.library",
    "sweep": "eman.sweeps.library",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'eman.api' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_MODULES[name]), name)
