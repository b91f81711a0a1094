"""What is registered is checked: names, parts, fields, losses, rules and norms; errors say what to change."""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Literal

import pytest
import torch
from pydantic import Field
from torch import Tensor, nn

from eman.api import (
    CellRef,
    Claim,
    Contrast,
    Criterion,
    Expect,
    Method,
    Move,
    Parts,
    Scheme,
    StatisticsRule,
    StudentNorm,
    Teacher,
    TeacherNorm,
    TeacherSection,
    UnlabelledSection,
    UserError,
    convert_norm,
    profile_named,
    register_claim,
    register_method,
    register_norm,
    register_profile,
    register_scheme,
    register_table,
    register_teacher_norm,
)
from eman.sweeps.tables.registry import TABLES
from eman.trainers.methods.registry import METHODS
from eman.trainers.norm.schemes import SCHEMES, STUDENT_NORMS, TEACHER_NORMS


class OwnSpec(UnlabelledSection, TeacherSection):
    name: Literal["own"] = "own"
    width: Annotated[int, Field(ge=1)] = 8


class Typeless(OwnSpec):
    anything: dict[str, int] = Field(default_factory=dict)


class Nameless(OwnSpec):
    name: Literal["other"] = "other"  # type: ignore[assignment]


class Mean(Criterion[OwnSpec]):
    def forward(self, student: list[Tensor], teacher: list[Tensor], labels: dict[str, Tensor]) -> Any:
        return (student[0] - teacher[0]).square().mean(), {"size": student[0].detach().norm(dim=1).mean()}


class Sum(Mean):
    def forward(self, student: list[Tensor], teacher: list[Tensor], labels: dict[str, Tensor]) -> Any:
        return (student[0] - teacher[0]).square().sum(), {}


class Rows(Mean):
    def forward(self, student: list[Tensor], teacher: list[Tensor], labels: dict[str, Tensor]) -> Any:
        return (student[0] - teacher[0]).square().mean(1), {}


class Detached(Mean):
    def forward(self, student: list[Tensor], teacher: list[Tensor], labels: dict[str, Tensor]) -> Any:
        return student[0].detach().mean(), {}


class Count(Mean):
    def forward(self, student: list[Tensor], teacher: list[Tensor], labels: dict[str, Tensor]) -> Any:
        return student[0].mean(), {"images": torch.tensor(float(len(student[0])))}


class Fails(Mean):
    def forward(self, student: list[Tensor], teacher: list[Tensor], labels: dict[str, Tensor]) -> Any:
        return student[0].reshape(3, 3).mean(), {}


def heads(spec: OwnSpec, features: int, classes: int) -> dict[str, nn.Module]:
    return {"head": nn.Linear(features, spec.width)}


def own(criterion: type[Criterion[Any]] = Mean, **changes: Any) -> Method[Any]:
    values: dict[str, Any] = {
        "name": "own",
        "title": "Own",
        "section": OwnSpec,
        "default_scheme": "bn",
        "views": {"first": ("unlabelled", "weak"), "second": ("unlabelled", "weak")},
        "student": (("first",),),
        "teacher": (("second",),),
        "losses": Parts(heads=heads, criterion=criterion),
    }
    return Method(**{**values, **changes})


def norm(**changes: Any) -> StudentNorm:
    return StudentNorm(**{"title": "N", "rule": "a rule", **changes})


def scheme(**changes: Any) -> Scheme:
    return Scheme(**{"title": "S", "teacher": "eman", **changes})


def mixes(channels: int, vectors: bool) -> nn.Module:
    return nn.BatchNorm1d(channels) if vectors else nn.BatchNorm2d(channels)


class Idle(StatisticsRule):
    pass


class Bursts(StatisticsRule):
    def move(self, teacher: list[Tensor], student: list[Tensor], momentum: float | Tensor) -> None:
        for mine in teacher:
            mine.div_(0)


REF = CellRef("table1", "BN / BN", "BYOL")
CLAIM = Claim(name="own", says="x", source="ours", contrast=Contrast(REF, REF), expect=Expect.HIGHER)

REFUSED: list[tuple[str, Callable[[], None], str]] = [
    ("a taken name", lambda: register_scheme("eman", scheme()), "scheme 'eman' is already registered by eman"),
    ("no name", lambda: register_scheme("a b", scheme()), "letters, digits"),
    ("a reserved name", lambda: register_table("grid", TABLES["table1"]), "something else"),
    ("a dotted method", lambda: register_method(own(name="a.b")), "hyphens and underscores"),
    ("no student", lambda: register_scheme("own", scheme(student="nothing")), "unknown student_norm"),
    ("no teacher", lambda: register_scheme("own", scheme(teacher="emam")), "did you mean 'eman'"),
    ("no statistics", lambda: register_scheme("own", scheme(student="gn")), "give student_norm bn or syncbn"),
    ("no momentum", lambda: register_scheme("own", scheme(teacher="teacher-pn")), "needs teacher_proxy_momentum"),
    ("a momentum", lambda: register_scheme("own", scheme(eman_momentum=1.5)), "a number from 0 to 1"),
    ("no layer", lambda: register_teacher_norm("own", TeacherNorm(title="N", norm="nothing")), "unknown norm"),
    ("an idle rule", lambda: register_teacher_norm("own", TeacherNorm(title="N", statistics=Idle)), "has move"),
    ("a rule that bursts", lambda: register_teacher_norm("own", TeacherNorm(title="N", statistics=Bursts)), "finite"),
    ("a norm over the batch", lambda: register_norm("own", norm(layer=mixes)), "depends on the others"),
    ("a norm that fails", lambda: register_norm("own", norm(layer=lambda c, v: nn.LayerNorm(3))), "must take maps"),
    ("a sum", lambda: register_method(own(Sum)), "return means over images"),
    ("a loss by image", lambda: register_method(own(Rows)), "must be a scalar tensor"),
    ("no gradient", lambda: register_method(own(Detached)), "with a gradient"),
    ("a count", lambda: register_method(own(Count)), "criterion's images is 8"),
    ("a loss that fails", lambda: register_method(own(Fails)), "fail on 8 images .*shape"),
    ("no type", lambda: register_method(own(section=Typeless)), "field 'anything' has type dict"),
    ("two names", lambda: register_method(own(section=Nameless)), "is 'other'; give both the same"),
    ("an unused view", lambda: register_method(own(student=(("second",),))), "every view must be used"),
    ("no teacher pass", lambda: register_method(own(teacher=(), student=(("first", "second"),))), "teacher passes"),
    ("no default", lambda: register_method(own(default_scheme="none")), "unknown default_scheme"),
    ("a number", lambda: register_table("9", TABLES["table1"]), "the paper's tables"),
    ("no table", lambda: register_claim(replace(CLAIM, contrast=Contrast(CellRef("t", "a", "b"), REF))), "'t'"),
    ("a table's name", lambda: register_claim(replace(CLAIM, name="table1")), "a table's name"),
    ("a profile", lambda: register_profile(profile_named("mini")), "profile 'mini' is already registered"),
]


@pytest.mark.parametrize(("call", "message"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_it_is_refused(call: Callable[[], None], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()
    assert not {"own", "a.b", "9"} & {*METHODS, *SCHEMES, *STUDENT_NORMS, *TEACHER_NORMS, *TABLES}


@pytest.fixture
def registered() -> Any:
    """Take back what the test registers."""
    registries = (METHODS, SCHEMES, STUDENT_NORMS, TEACHER_NORMS)
    yield
    for registry in registries:
        registry.pop("own", None)


@pytest.mark.usefixtures("registered")
def test_a_method_with_its_own_fields_views_and_measures_trains(tmp_path: Any) -> None:
    from eman.platform.workspace import Workspace
    from eman.trainers.training import Training

    def dark(x: Tensor, draws: Any, options: Any) -> Tensor:
        return x * draws(1).view(-1, 1, 1, 1)

    views = {"first": ("unlabelled", dark), "second": ("unlabelled", "weak")}
    register_method(own(views=views, profiles={"smoke": {"batch": 64, "width": 16}}))
    spec = profile_named("smoke").run("own", "eman", 0, {"epochs": 1})
    assert spec.flat()["width"] == 16
    training = Training.fresh(spec, Workspace.from_environment())
    _, measures, output = training.train_step()
    assert set(measures) == {"size"}
    assert output.shape == (64, 16)


@pytest.mark.usefixtures("registered")
def test_a_norm_of_ones_own_stands_where_batch_norm_stood() -> None:
    register_norm("own", norm(layer=lambda channels, vectors: nn.GroupNorm(1, channels)))
    student = convert_norm(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)), "own")
    assert isinstance(student[1], nn.GroupNorm)  # type: ignore[index]
    register_scheme("own", Scheme(title="own", student="own", teacher="own"))
    assert Teacher(student, "own")(torch.randn(3, 4)).shape == (3, 8)


class Counted(StatisticsRule):
    steps: Tensor

    def __init__(self, statistics: list[Tensor]) -> None:
        super().__init__(statistics)
        self.register_buffer("steps", torch.zeros(()))

    def move(self, teacher: list[Tensor], student: list[Tensor], momentum: float | Tensor) -> None:
        self.steps.add_(1)
        for mine, theirs in zip(teacher, student, strict=True):
            mine.lerp_(theirs, 1 / self.steps)


@pytest.mark.usefixtures("registered")
def test_a_rule_moves_the_statistics_alone_and_its_state_is_saved() -> None:
    register_teacher_norm("own", TeacherNorm(title="plain mean", statistics=Counted))
    register_scheme("own", Scheme(title="own", teacher="own"))
    student = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
    teacher, seen = Teacher(student, "own", momentum=0.5), []
    for _ in range(3):
        student(torch.randn(16, 4))
        seen.append(student[1].running_var.clone())  # type: ignore[union-attr, operator]
        teacher.update(student)
    torch.testing.assert_close(teacher.network[1].running_var, torch.stack(seen).mean(0))  # type: ignore[index]
    assert teacher.state_dict()["rule.steps"] == 3
    other = Teacher(student, "own")
    other.load_state_dict(teacher.state_dict())
    assert other.rule is not None
    assert other.rule.get_buffer("steps") == 3
    eman = Teacher(student, replace(SCHEMES["eman"]), momentum=0.5)
    assert "rule" not in {name.partition(".")[0] for name in eman.state_dict()}
    assert TEACHER_NORMS["eman"].statistics is Move.AVERAGE_STATISTICS
