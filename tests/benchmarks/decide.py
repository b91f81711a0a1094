"""What deciding claims while seeds arrive saves: simulated verdicts and seeds, beside a fixed number of seeds.

The differences of a claim are drawn from a normal distribution with standard deviation 1.
"""

import argparse

import numpy as np
from scipy import stats

from eman.evaluation.results.claims import CellRef, Claim, Contrast, Expect, Measured, VerdictKind
from eman.evaluation.results.evidence import LEVEL
from eman.evaluation.results.sequential import decide

_REF = CellRef("table1", "a", "b")
_CLAIM = Claim(name="x", says="x", source="x", contrast=Contrast(_REF, _REF), expect=Expect.HIGHER)


def row(effect: float, most: int, level: float, draws: int) -> str:
    samples = np.random.default_rng(0).normal(effect, 1.0, (draws, most))
    found = [decide(_CLAIM, Measured("-", dict(enumerate(x))), most=most, level=level) for x in samples.tolist()]
    fixed = np.mean(stats.ttest_1samp(samples, 0.0, axis=1).pvalue <= level)
    shown = np.mean([d.outcome in (VerdictKind.SUPPORTED, VerdictKind.CONTRADICTED) for d in found])
    seeds = np.mean([d.looked for d in found])
    return f"| {effect:g} | {100 * fixed:.1f} % | {100 * shown:.1f} % | {most} | {seeds:.1f} | {seeds / most:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=24, help="seeds after which a claim is given up")
    parser.add_argument("--claims", type=int, default=1, help="claims that are decided together")
    parser.add_argument("--draws", type=int, default=1000, help="simulated claims a row")
    given = parser.parse_args()
    print("| effect / sd | decided, fixed | decided, `eman decide` | seeds, fixed | seeds, `eman decide` | ratio |")
    print("|---:|---:|---:|---:|---:|---:|")
    for effect in (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0):
        print(row(effect, given.most, LEVEL / given.claims, given.draws), flush=True)


if __name__ == "__main__":
    main()
