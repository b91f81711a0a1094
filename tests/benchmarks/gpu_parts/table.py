"""The results of the GPU benchmark as a compact page of Markdown."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gpu_parts import where

Rows = Mapping[str, Mapping[str, Any]]


def render(results: Mapping[str, Any]) -> str:
    """Return the card, the versions, and a table for each part."""
    about = results.get("about", {})
    named = [
        ("", about.get("card")),
        ("driver ", about.get("driver")),
        ("PyTorch ", about.get("torch")),
        ("CUDA ", about.get("cuda")),
        ("cuDNN ", about.get("cudnn")),
        ("Python ", about.get("python")),
        ("cores ", about.get("cores")),
    ]
    lines = [
        f"{about.get('date', 'no date')}, revision {about.get('revision', 'unknown')}: "
        + ", ".join(f"{name}{value}" for name, value in named if value),
        "",
        f"`{about.get('command', '')}`",
    ]
    for part, write in PARTS.items():
        found = results.get("parts", {}).get(part)
        if found is None:
            continue
        lines += ["", *write(found.get("rows", {})), *_remarks(found)]
    return "\n".join(lines) + "\n"


def grid(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Return a table of Markdown."""
    lines = [_line(heads), _line(["---", *["---:"] * (len(heads) - 1)])]
    return [*lines, *(_line([_shown(cell) for cell in row]) for row in rows)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def _remarks(found: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, error in found.get("errors", {}).items():
        lines.append(f"- {name} failed: {str(error).strip().splitlines()[-1][:200]}")
    if found.get("left_out"):
        lines.append(f"- left out, no time: {', '.join(found['left_out'])}")
    return ["", *lines] if lines else []


def _ceilings(rows: Rows) -> list[str]:
    return grid(
        ("ceiling", "measured"),
        [
            (name, f"{row['gb_per_s']:,.0f} GB/s" if "gb_per_s" in row else f"{row['tflop_per_s']:,.1f} TFLOP/s")
            for name, row in rows.items()
        ],
    )


def _right(rows: Rows) -> list[str]:
    """Return one line for each kind of comparison: how many agree, and the largest differences."""
    kinds: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for name, row in rows.items():
        kinds[kind_of_check(name)].append(row)

    def worst(rows: Sequence[Mapping[str, Any]], *keys: str) -> float | None:
        return max((row[key] for row in rows for key in keys if key in row), default=None)

    lines = grid(
        ("comparison", "agree", "first loss", "state after 20 steps", "views"),
        [
            (
                kind,
                f"{sum(bool(row.get('ok')) for row in of_kind)} of {len(of_kind)}",
                worst(of_kind, "first_loss", "losses"),
                worst(of_kind, "state_20"),
                worst(of_kind, "views_max"),
            )
            for kind, of_kind in sorted(kinds.items())
        ],
    )
    failed = [name for name, row in rows.items() if not row.get("ok")]
    return [*lines, "", f"- do not agree: {', '.join(failed)}"] if failed else lines


def kind_of_check(name: str) -> str:
    """Return the kind of a comparison, without its method and scheme."""
    words = name.split(" ", 2)
    return words[2] if len(words) > 2 else name


def _fast(rows: Rows) -> list[str]:
    timed = {name: row for name, row in rows.items() if "ms" in row}
    lines = grid(
        ("ResNet-50", "images/s", "ms", "peak GiB", "bf16 share", "bandwidth share", "floor ms", "first step s"),
        [
            (
                name,
                row["images_per_s"],
                row["ms"],
                row.get("peak_gib"),
                _share(row.get("bf16_share")),
                _share(row.get("bandwidth_share")),
                row.get("floor_ms"),
                row.get("first_step_s"),
            )
            for name, row in timed.items()
        ],
    )
    others = [f"- {name}: {value}x" for name, value in rows.get("ratios", {}).items()]
    others += [f"- EMAN / BN teacher: {row['ratio']}x" for name, row in rows.items() if name == "EMAN / BN teacher"]
    return [*lines, "", *others] if others else lines


def _small(rows: Rows) -> list[str]:
    lines = grid(
        ("profile mini", "images/s", "ms a step"),
        [(name, row["images_per_s"], row.get("ms")) for name, row in rows.items() if "images_per_s" in row],
    )
    for name, row in rows.items():
        if "trainings" in row:
            minutes = f"{row['minutes']:g} minutes" if "minutes" in row else "not all methods were measured"
            lines += ["", f"- {name}: {row['trainings']} trainings, {minutes}; {row['note']}"]
    return lines


def _profile(rows: Rows) -> list[str]:
    found = {name: where.shares(row) for name, row in rows.items()}
    kinds = sorted({kind for of_row in found.values() for kind in of_row}, key=lambda k: (k == "idle", k))
    return grid(
        ("share of a step", "ms", "calls", *kinds),
        [
            (name, rows[name]["ms"], rows[name]["calls_per_step"], *(_share(of_row.get(kind)) for kind in kinds))
            for name, of_row in found.items()
        ],
    )


#: Writers of the parts, in the order of the page.
PARTS: dict[str, Callable[[Rows], list[str]]] = {
    "ceilings": _ceilings,
    "right": _right,
    "fast": _fast,
    "small": _small,
    "profile": _profile,
}
