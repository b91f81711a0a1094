"""docs/fidelity.md: the tables of hyper-parameters cannot go stale."""

import copy
import runpy
import tomllib
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
GENERATE = runpy.run_path(str(DOCS / "generate.py"))


@pytest.fixture
def data() -> dict[str, dict[str, dict[str, Any]]]:
    return tomllib.loads((DOCS / "fidelity.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", GENERATE["PARTS"])
def test_generated_parts_are_up_to_date(name: str) -> None:
    """If this fails, run ``python docs/generate.py``."""
    assert GENERATE["page"](name) == (DOCS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(("section", "field"), [("byol", "hidden_dim"), ("run", "devices"), ("knn", "k")])
def test_each_field_needs_an_entry(section: str, field: str, data: dict[str, Any]) -> None:
    del data[section][field]
    with pytest.raises(ValueError, match=f"{field} has no entry"):
        GENERATE["fidelity"](data)


@pytest.mark.parametrize("section", ["moco", "run", "linear", "evaluation", "profile", "mocco"])
def test_each_entry_needs_a_field(section: str, data: dict[str, Any]) -> None:
    data.setdefault(section, {})["tempo"] = {"paper": 1, "paper_at": "5"}
    with pytest.raises(ValueError, match=f"{section}.tempo is not a field"):
        GENERATE["fidelity"](data)


@pytest.mark.parametrize("source", ["paper", "official"])
def test_a_difference_needs_a_reason(source: str, data: dict[str, Any]) -> None:
    changed = copy.deepcopy(data)
    changed["fixmatch"]["lr"][source] = 0.1
    with pytest.raises(ValueError, match=r"fixmatch\.lr is 0\.03 here"):
        GENERATE["fidelity"](changed)
    changed["fixmatch"]["lr"]["why"] = "Because."
    assert "| `lr` |" in GENERATE["fidelity"](changed)
