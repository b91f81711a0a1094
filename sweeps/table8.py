"""Table 8: the ablations, EMAN's momentum and proxy norms."""

from collections.abc import Mapping, Sequence
from typing import Any

from eman.evaluation.tables import Table
from eman.sweeps.profiles import Profile
from eman.sweeps.schemes import scheme_table

ROWS = (
    "default",
    "bn",
    "eman",
    "eman-m0.9",
    "eman-m0.99999",
    "teacher-pn-0.9",
    "student-pn-0.9",
    "teacher-pn-0.999",
    "student-pn-0.999",
)


def table(profile: Profile, seeds: Sequence[int], overrides: Mapping[str, Any] | None = None) -> Table:
    """The table at a profile."""
    return scheme_table(8, "Ablations: EMAN momentum and proxy norms (PN)", ROWS, profile, seeds, overrides)
