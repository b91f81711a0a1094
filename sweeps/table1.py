"""Table 1: accuracy with different normalization."""

from collections.abc import Mapping, Sequence
from typing import Any

from eman.evaluation.tables import Table
from eman.sweeps.profiles import Profile
from eman.sweeps.schemes import scheme_table

ROWS = ("default", "bn", "syncbn", "shufflebn", "gn", "in", "eman")


def table(profile: Profile, seeds: Sequence[int], overrides: Mapping[str, Any] | None = None) -> Table:
    """The table at a profile."""
    return scheme_table(1, "Accuracy with different normalization", ROWS, profile, seeds, overrides)
