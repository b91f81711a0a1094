"""The results of the GPU benchmark as a compact page of Markdown."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gpu_parts import small, where

Rows = Mapping[str, Mapping[str, Any]]

#: Parts of a state whose difference the table shows; those of the optimizer's momentum are in the JSON file.
NETWORKS = ("student", "teacher")


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
        rows = found.get("rows", {})
        if part == "fast":
            rows = with_shares(rows, results["parts"].get("ceilings", {}).get("rows", {}))
        lines += ["", *write(rows), *_remarks(found)]
    return "\n".join(lines) + "\n"


def merged(several: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Join the results of several commands on one card; of a part that several ran, the last counts."""
    result: dict[str, Any] = {"about": {}, "parts": {}}
    for one in several:
        result["about"] |= one["about"]
        result["parts"] |= one["parts"]
    result["about"]["command"] = "; ".join(one["about"].get("command", "") for one in several)
    return result


def with_shares(rows: Rows, ceilings: Rows) -> dict[str, dict[str, Any]]:
    """Add each step's shares of the measured ceilings, where these were measured on the card.

    ``bandwidth_share`` counts what the step's operations read and write. ``floor_ms`` is the time of its convolutions'
    traffic alone, or of its arithmetic, whichever is longer.
    """
    found = {name: dict(row) for name, row in rows.items()}
    if not {"bf16 product", "copy"} <= ceilings.keys():
        return found
    rate, copy = ceilings["bf16 product"]["tflop_per_s"], ceilings["copy"]["gb_per_s"]
    for row in found.values():
        if "tflop" in row:
            seconds = row["ms"] / 1e3
            row["bf16_share"] = row["tflop"] / seconds / rate
            row["bandwidth_share"] = row["gb"] / seconds / copy
            row["floor_ms"] = 1e3 * max(row["tflop"] / rate, row["convolution_gb"] / copy)
    return found


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
        ("comparison", "agree", "first loss", "networks after 20 steps", "views"),
        [
            (
                kind,
                f"{sum(bool(row.get('ok')) for row in of_kind)} of {len(of_kind)}",
                worst(of_kind, "first_loss", "losses"),
                _networks(of_kind),
                worst(of_kind, "views_max"),
            )
            for kind, of_kind in sorted(kinds.items())
        ],
    )
    failed = [name for name, row in rows.items() if not row.get("ok")]
    return [*lines, "", f"- do not agree: {', '.join(failed)}"] if failed else lines


def _networks(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the largest difference between networks."""
    parts = [row.get("by_part", {}) for row in rows]
    return max((of_row[name] for of_row in parts for name in NETWORKS if name in of_row), default=None)


def kind_of_check(name: str) -> str:
    """Return the kind of a comparison, without its method and scheme."""
    words = name.split(" ", 2)
    return words[2] if len(words) > 2 else name


def _fast(rows: Rows) -> list[str]:
    timed = {name: row for name, row in rows.items() if "ms" in row}
    usual = [row["images_per_s"] for name, row in timed.items() if name.startswith("usual")]
    names = [name.partition(", ")[2] for name in timed if name.startswith("usual")]
    lines = grid(
        ("ResNet-50", "images/s", "ms", f"times the usual: {'; '.join(names)}", *_COLUMNS),
        [
            (
                name,
                row["images_per_s"],
                row["ms"],
                ", ".join(f"{row['images_per_s'] / other:.2f}" for other in usual) if _comparable(name) else None,
                row.get("peak_gib"),
                _share(row.get("bf16_share")),
                _share(row.get("bandwidth_share")),
                row.get("floor_ms"),
                row.get("first_step_s"),
            )
            for name, row in timed.items()
        ],
    )
    eman, bn = rows.get("MoCo-EMAN"), rows.get("MoCo, BN teacher")
    if eman and bn:
        ratio = eman["images_per_s"] / bn["images_per_s"]
        lines += ["", f"- MoCo with an EMAN teacher is {ratio:.3f} times as fast as with a BN teacher."]
    return lines


#: Columns of part `fast` after the rates.
_COLUMNS = ("peak GiB", "bf16 share", "bandwidth share", "floor ms", "first step s")


def _comparable(name: str) -> bool:
    """Return whether a configuration does what the usual implementation does, MoCo-EMAN on one device."""
    return name.startswith("MoCo-EMAN") and "devices" not in name


def _small(rows: Rows) -> list[str]:
    lines = grid(
        ("profile mini", "images/s", "ms a step"),
        [(name, row["images_per_s"], row.get("ms")) for name, row in rows.items() if "images_per_s" in row],
    )
    for name, row in rows.items():
        if "trainings" in row:
            minutes = small.minutes(row["images"], rows)
            time = "not all methods were measured" if minutes is None else f"{minutes:.1f} minutes"
            lines += ["", f"- {name}: {row['trainings']} trainings, {time}; {row['note']}"]
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
