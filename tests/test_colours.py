"""Colours of schemes: one each, and distinct for readers with deuteranopia and protanopia."""

import itertools

import numpy as np
import pytest

from eman.sweeps.profiles.registry import PROFILES
from eman.sweeps.tables import table1, table8
from eman.trainers.norm.colours import COLOURS, colour_of
from eman.trainers.norm.schemes import SCHEMES, Scheme
from eman.trainers.spec.labels import record_tags, scheme_colour

#: What readers see of linear RGB: Machado, Oliveira and Fernandes (2009), severity 1.
VISION = {
    "normal": np.eye(3),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
}

#: Linear sRGB to CIE XYZ, relative to its white (D65).
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = TO_XYZ.sum(1)


def lab(colour: str, vision: str) -> np.ndarray:
    """CIELAB of a colour as seen with this vision; a distance of 2.3 is just noticeable."""
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    x, y, z = np.clip(TO_XYZ @ np.clip(VISION[vision] @ linear, 0, 1) / WHITE, 0, None)
    f = [np.cbrt(v) if v > (6 / 29) ** 3 else v / (3 * (6 / 29) ** 2) + 4 / 29 for v in (x, y, z)]
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize(("schemes", "apart"), [(table1.ROWS, 15.0), (table8.ROWS, 20.0), (tuple(SCHEMES), 6.0)])
def test_the_rows_of_a_table_can_be_told_apart(schemes: tuple[str, ...], apart: float, vision: str) -> None:
    for first, second in itertools.combinations(schemes, 2):
        distance = np.linalg.norm(lab(COLOURS[first], vision) - lab(COLOURS[second], vision))
        assert distance > apart, (first, second, distance)


def test_a_scheme_has_one_colour_at_all_scales() -> None:
    for profile, name in itertools.product(("smoke", "quick", "mini", "imagenet"), COLOURS):
        run = PROFILES[profile].run("fixmatch", name)
        assert scheme_colour(run) == COLOURS[name]
        assert record_tags(run, profile)["mlflow.runColor"] == COLOURS[name]


def test_another_scheme_has_some_colour_of_the_palette() -> None:
    added = Scheme(title="GN / LN", student="gn", teacher="ln")
    assert colour_of(added) == colour_of(added) in COLOURS.values()
    assert colour_of(Scheme(title="BN / EMAN (m=0.5)", teacher="eman", eman_momentum=0.5)) == COLOURS["eman-m0.9"]
