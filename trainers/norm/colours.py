"""The colour of each scheme, the same in MLflow's UI, in figures and in reports."""

import zlib

from eman.trainers.norm.schemes import SCHEMES, Scheme

#: Momenta up to this one are short memories, which have a lighter colour than long ones.
_SHORT = 0.9

#: Colours by scheme. Table 1's are Okabe and Ito's (https://jfly.uni-koeln.de/color/). The others were chosen so that
#: readers with deuteranopia or protanopia can tell the rows of a table apart, see tests/test_colours.py.
COLOURS = {
    "default": "#000000",
    "bn": "#0072b2",
    "syncbn": "#56b4e9",
    "shufflebn": "#009e73",
    "gn": "#e69f00",
    "in": "#cc79a7",
    "eman": "#d55e00",
    "eman-m0.9": "#e8b89e",
    "eman-m0.99999": "#6e2a0c",
    "teacher-pn-0.9": "#a07bff",
    "teacher-pn-0.999": "#4e00f5",
    "student-pn-0.9": "#cfc800",
    "student-pn-0.999": "#7a7a7a",
    "ln": "#66005c",
    "gn-ws": "#efba6c",
    "evonorm-s0": "#31723b",
    "frn": "#1f473b",
    "syncbn-eman": "#e0b8bf",
    "eman-corrected": "#e93550",
    "momentum2": "#1225a5",
    "frozen": "#8f35e9",
}


def colour_of(scheme: Scheme) -> str:
    """Return a scheme's colour as ``#rrggbb``.

    Schemes with the norms of one in :data:`COLOURS` have its colour, whatever the values of their momenta, which differ
    between profiles; only short, long and default memories are distinguished. Others have one of these colours, chosen
    by their norms.
    """
    alike = [name for name in COLOURS if _norms(SCHEMES[name]) == _norms(scheme)]
    same = [name for name in alike if _memory(SCHEMES[name]) == _memory(scheme)]
    if same or alike:
        return COLOURS[(same or alike)[0]]
    return list(COLOURS.values())[zlib.crc32("/".join(_norms(scheme)).encode()) % len(COLOURS)]


def _norms(scheme: Scheme) -> tuple[str, str]:
    return scheme.student, scheme.teacher


def _memory(scheme: Scheme) -> tuple[bool | None, ...]:
    """Return which of the scheme's momenta are long memories; ``None`` where it has no momentum of its own."""
    momenta = (scheme.student_proxy_momentum, scheme.teacher_proxy_momentum, scheme.eman_momentum)
    return tuple(None if momentum is None else momentum > _SHORT for momentum in momenta)
