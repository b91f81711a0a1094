"""What the paper says about its Tables 1, 2, 4, 5, 6 and 8: one claim per sentence."""

from collections.abc import Iterator

from eman.evaluation.results.claims import CellRef, Claim, Contrast, Expect
from eman.sweeps.tables.schemes import METHODS
from eman.trainers.methods.registry import method_named
from eman.trainers.norm.schemes import SCHEMES

#: Largest difference in points that counts as none. The paper calls +0.8 (BYOL, all labels) comparable, and speaks of
#: gains from about 1 point on.
MARGIN = 1.0

_TITLES = {method: method_named(method).title for method in METHODS}


def _scheme(name: str, method: str, metric: str = "") -> CellRef:
    """Return a scheme's cell in Table 1, or in Table 8 if only that table has the scheme."""
    extra = name.startswith(("eman-", "teacher-pn", "student-pn"))
    return CellRef("table8" if extra else "table1", SCHEMES[name].title, _TITLES[method], metric)


def compare_schemes(
    method: str,
    first: str,
    second: str,
    expect: Expect,
    source: str = "Section 5.1, Table 1",
    *,
    name: str = "",
    metric: str = "",
    what: str = "",
    relative: bool = False,
) -> Claim:
    """Return a claim that compares two schemes in a method: by the tables' result, or by a metric of their trainings.

    ``name`` is a suffix of the claim's name; ``what`` names the metric in the sentence.
    """
    words = {Expect.HIGHER: "is above", Expect.LOWER: "is below", Expect.EQUAL: "equals"}
    titles = (_title(first, method), _title(second, method))
    return Claim(
        name="-".join([method, first, second, *([name] if name else [])]),
        says=f"{_TITLES[method]}: {titles[0]} {words[expect]} {titles[1]}{f' in {what}' if what else ''}.",
        source=source,
        contrast=Contrast(_scheme(first, method, metric), _scheme(second, method, metric)),
        expect=expect,
        margin=MARGIN if expect is Expect.EQUAL else None,
        relative=relative,
    )


def scheme_fails(method: str, scheme: str, source: str = "Section 5.1, Table 1") -> Claim:
    """Return the claim that a scheme fails in a method."""
    ref = _scheme(scheme, method)
    says = f"{_TITLES[method]}: {_title(scheme, method)} fails."
    name = f"{method}-{scheme}-fails"
    return Claim(name=name, says=says, source=source, contrast=Contrast(ref, ref), expect=Expect.FAILS)


def _title(scheme: str, method: str) -> str:
    """Return a scheme's name for a sentence. What ``default`` means depends on the method."""
    if scheme != "default":
        return SCHEMES[scheme].title
    named = method_named(method).default_scheme
    return "the default" if named == "default" else f"the default ({SCHEMES[named].title})"


def _table1() -> Iterator[Claim]:
    for method in METHODS:
        yield compare_schemes(method, "eman", "bn", Expect.HIGHER)
        yield compare_schemes(method, "eman", "default", Expect.HIGHER)
        yield compare_schemes(method, "bn", "default", Expect.LOWER)
    yield compare_schemes("moco", "syncbn", "shufflebn", Expect.LOWER)
    yield compare_schemes("fixmatch", "syncbn", "bn", Expect.LOWER)
    yield compare_schemes("byol", "shufflebn", "syncbn", Expect.LOWER)
    yield compare_schemes("fixmatch", "shufflebn", "bn", Expect.LOWER)
    for scheme in ("gn", "in"):
        yield compare_schemes("fixmatch", scheme, "eman", Expect.LOWER)
        yield compare_schemes("moco", scheme, "eman", Expect.LOWER)
        yield scheme_fails("byol", scheme)
    yield compare_schemes(
        "byol", "eman", "syncbn", Expect.HIGHER, "Section 5.1", name="speed", metric="train/images_per_second",
        what="images per second", relative=True,
    )  # fmt: skip


def _table8() -> Iterator[Claim]:
    source = "Section 5.4, Table 8"
    yield compare_schemes("moco", "eman-m0.9", "eman", Expect.LOWER, source)
    yield compare_schemes("fixmatch", "eman-m0.9", "eman", Expect.EQUAL, source)
    yield compare_schemes("fixmatch", "eman-m0.99999", "eman", Expect.LOWER, source)
    yield scheme_fails("moco", "eman-m0.99999", source)
    for method in METHODS:
        yield compare_schemes(method, "teacher-pn-0.9", "eman", Expect.LOWER, source)
    yield compare_schemes("fixmatch", "student-pn-0.9", "eman", Expect.LOWER, source)
    yield compare_schemes("moco", "student-pn-0.9", "eman", Expect.LOWER, source)
    yield scheme_fails("byol", "student-pn-0.9", source)
    for method in METHODS:
        yield compare_schemes(method, "student-pn-0.999", "eman", Expect.EQUAL, source)


def _gain(table: str, network: str, column: str) -> Contrast:
    """Return a pretrained network with EMAN minus the same without."""
    method, _, rest = network.partition(" ")
    return Contrast(
        CellRef(table, f"{method}-EMAN{f' {rest}' if rest else ''}", column), CellRef(table, network, column)
    )


def _table2() -> Iterator[Claim]:
    source = "Section 5.2, Table 2"
    for method in ("MoCo", "BYOL"):
        few, tenth, all_ = (
            _gain("table2", f"{method} [linear]", f"{share}% labels top-1") for share in ("1", "10", "100")
        )
        lower = method.lower()
        yield Claim(
            name=f"{lower}-linear-10", says=f"{method}: EMAN helps linear classification with 10 % of the labels.",
            source=source, contrast=tenth, expect=Expect.HIGHER,
        )  # fmt: skip
        yield Claim(
            name=f"{lower}-linear-1-10", says=f"{method}: EMAN's gain is larger with 1 % of the labels than with 10 %.",
            source=source, contrast=few, minus=tenth, expect=Expect.HIGHER,
        )  # fmt: skip
        yield Claim(
            name=f"{lower}-linear-100", says=f"{method}: EMAN makes no difference with all labels.", source=source,
            contrast=all_, expect=Expect.EQUAL, margin=MARGIN,
        )  # fmt: skip
        yield Claim(
            name=f"{lower}-finetune-1", says=f"{method}: EMAN helps finetuning with 1 % of the labels.", source=source,
            contrast=_gain("table2", f"{method} [finetune]", "1% labels top-1"), expect=Expect.HIGHER,
        )  # fmt: skip


def _tables4_and_5() -> Iterator[Claim]:
    for method in ("MoCo", "BYOL"):
        for what, column in (("kNN classification", "kNN top-1"), ("retrieval", "retrieval mAP")):
            yield Claim(
                name=f"{method.lower()}-{what.partition(' ')[0].lower()}", says=f"{method}: EMAN helps {what}.",
                source="Section 5.2, Table 4", contrast=_gain("table4", f"{method} (200 epochs)", column),
                expect=Expect.HIGHER,
            )  # fmt: skip
        yield Claim(
            name=f"{method.lower()}-lowshot-1", says=f"{method}: EMAN helps classification from one image per class.",
            source="Section 5.2, Table 5", contrast=_gain("table5", f"{method} (200 epochs)", "k=1"),
            expect=Expect.HIGHER,
        )  # fmt: skip


def _table6() -> Iterator[Claim]:
    source = "Section 5.3, Table 6"

    def ref(scheme: str, start: str, share: str = "10") -> CellRef:
        return CellRef("table6", f"{scheme} from {start}, 1×", f"{share}% labels top-1")

    yield Claim(
        name="fixmatch-from-moco", says="FixMatch-EMAN from MoCo is above FixMatch-EMAN from scratch.", source=source,
        contrast=Contrast(ref("EMAN", "MoCo"), ref("EMAN", "None")), expect=Expect.HIGHER,
    )  # fmt: skip
    for share in ("10", "1"):
        yield Claim(
            name=f"fixmatch-from-moco-eman-{share}",
            says=f"FixMatch-EMAN from MoCo-EMAN is above FixMatch-EMAN from MoCo with {share} % of the labels.",
            source=source,
            contrast=Contrast(ref("EMAN", "MoCo-EMAN", share), ref("EMAN", "MoCo", share)), expect=Expect.HIGHER,
        )  # fmt: skip
    gains = [Contrast(ref("EMAN", "MoCo", share), ref("baseline", "MoCo", share)) for share in ("1", "10")]
    yield Claim(
        name="fixmatch-from-moco-1-10",
        says="FixMatch from MoCo: EMAN's gain is larger with 1 % of the labels than with 10 %.", source=source,
        contrast=gains[0], minus=gains[1], expect=Expect.HIGHER,
    )  # fmt: skip


CLAIMS = (*_table1(), *_table8(), *_table2(), *_tables4_and_5(), *_table6())
