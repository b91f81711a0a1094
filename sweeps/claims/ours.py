"""What this project found, as claims like the paper's."""

from eman.evaluation.results.claims import Claim, Expect
from eman.sweeps.claims.paper import compare_schemes


def _pseudo_labels(scheme: str) -> Claim:
    return compare_schemes(
        "fixmatch", "eman", scheme, Expect.HIGHER, "ours", name="pseudo-labels",
        metric="train/pseudo_label_accuracy", what="the accuracy of its pseudo-labels", relative=True,
    )  # fmt: skip


CLAIMS = (
    _pseudo_labels("bn"),
    _pseudo_labels("default"),
    # The rule of several libraries' teachers: parameters averaged, buffers copied.
    compare_schemes("byol", "student-pn-0.9", "eman", Expect.LOWER, "ours"),
)
