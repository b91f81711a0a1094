"""The history of benchmarks, docs/benchmarks.json, and the part of docs/performance.md that is made from it."""

import json
import platform  # noqa: TID251
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eman.platform.output import output_file

DOCS = Path(__file__).resolve().parents[2] / "docs"
HISTORY, PAGE = DOCS / "benchmarks.json", DOCS / "performance.md"
BEGIN = "<!-- what follows is made by `make bench` -->\n"

#: What must be equal for times of two entries, and losses between them, to mean anything.
MACHINE = ("processor", "cores", "threads", "bf16")
LOSS = 0.1


def processor() -> str:
    """The processor's name."""
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1) if found else platform.machine()


def page(history: Sequence[dict[str, Any]]) -> str:
    """The newest entry's lines, and its ratios beside those of the entry before it on such a machine."""
    if not history:
        return ""
    now = history[-1]
    before = next((e for e in reversed(history[:-1]) if all(e[k] == now[k] for k in MACHINE)), None)
    text = [
        f"On {now['date']}, revision `{now['revision']}`, torch {now['torch']}: {now['processor']}, {now['cores']} "
        f"cores, {now['threads']} threads, bfloat16 {now['bf16']}.\n",
        "```text",
        *now["lines"],
        "```\n",
        "How many times as fast the first is as the second"
        + (f"; before: {before['date']}, revision `{before['revision']}`" if before else "")
        + ":\n",
        "| ratio | before | now | change |",
        "|---|---|---|---|",
    ]
    for name, ratio in now["ratios"].items():
        old = before["ratios"].get(name) if before else None
        change = f"{100 * (ratio / old - 1):+.0f} %" if old else ""
        lost = old is not None and ratio < (1 - LOSS) * old
        text.append(f"| {name} | {old or ''} | {ratio} | {f'**{change}: slower**' if lost else change} |")
    return "\n".join(text) + "\n"


def put_down(about: dict[str, Any], lines: Sequence[str], ratios: dict[str, float]) -> None:
    """Adds an entry to the history and makes the page anew."""
    history = [*json.loads(HISTORY.read_text(encoding="utf-8")), {**about, "lines": list(lines), "ratios": ratios}]
    written, _, _ = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    for path, content in (
        (HISTORY, json.dumps(history, indent=1) + "\n"),
        (PAGE, written + BEGIN + "\n" + page(history)),
    ):
        with output_file(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
