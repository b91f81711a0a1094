"""docs/library-teachers.md: other libraries' own update functions, beside the schemes that the page says they are."""

import copy
import importlib.metadata
import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from eman.evaluation.results.paper import value
from eman.trainers.norm.schemes import SCHEMES
from eman.trainers.norm.teacher import Teacher

DOCS = Path(__file__).resolve().parent.parent / "docs"
MOMENTUM = 0.9

#: A library's teacher: its network, and what its user calls after each step.
Made = tuple[nn.Module, Callable[[], object]]


def averaged_model(student: nn.Module, use_buffers: bool) -> Made:
    model = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(MOMENTUM), use_buffers=use_buffers)
    model.update_parameters(student)  # its first update copies
    return model.eval().module, lambda: model.update_parameters(student)


def model_ema(student: nn.Module, exclude_buffers: bool) -> Made:
    from timm.utils.model_ema import ModelEmaV3

    model = ModelEmaV3(student, decay=MOMENTUM, exclude_buffers=exclude_buffers)
    return model.module, lambda: model.update(student)


def lightly_utils() -> Any:
    return pytest.importorskip("lightly.models.utils", reason="lightly is not installed; `make install` adds it")


def update_momentum(student: nn.Module) -> Made:
    utils = lightly_utils()
    network = copy.deepcopy(student)
    utils.deactivate_requires_grad(network)
    return network, lambda: utils.update_momentum(student, network, m=MOMENTUM)


@dataclass(frozen=True)
class Case:
    """A library's teacher and the scheme that it is.

    Attributes:
        library: Name in the package index.
        call: What the page calls it.
        proxy_weight: The student's batch norm ``momentum``, 1 - alpha of Eq. (4).
        averages_counters: Whether it averages batch norm's int64 counter, which no output depends on.
    """

    library: str
    call: str
    make: Callable[[nn.Module], Made]
    scheme: str
    proxy_weight: float = 0.1
    averages_counters: bool = False


CASES = [
    Case("torch", "AveragedModel(use_buffers=False)", lambda s: averaged_model(s, False), "student-pn-0.9"),
    Case("torch", "AveragedModel(use_buffers=False)", lambda s: averaged_model(s, False), "student-pn-0.999", 0.001),
    Case("torch", "AveragedModel(use_buffers=True)", lambda s: averaged_model(s, True), "eman", averages_counters=True),
    Case("timm", "ModelEmaV3(exclude_buffers=True)", lambda s: model_ema(s, True), "student-pn-0.9"),
    Case("timm", "ModelEmaV3(exclude_buffers=True)", lambda s: model_ema(s, True), "student-pn-0.999", 0.001),
    Case("timm", "ModelEmaV3(exclude_buffers=False)", lambda s: model_ema(s, False), "eman"),
    Case("lightly", "update_momentum", update_momentum, "bn"),
]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.call}-{case.scheme}")


def student_of(proxy_weight: float) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.BatchNorm2d(8, momentum=proxy_weight),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(288, 6),
        nn.BatchNorm1d(6, momentum=proxy_weight),
    ).double()


def compared(case: Case, scheme: str) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Train one student under both teachers; return the tensors and the outputs of both after each step."""
    student = student_of(case.proxy_weight)
    teacher, (network, update) = Teacher(student, scheme, MOMENTUM), case.make(student)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    found = []
    for _ in range(5):
        x1, x2 = torch.randn(2, 16, 1, 8, 8, dtype=torch.float64) * 2 + 1
        with torch.no_grad():
            outputs = teacher(x2), network(x2)
        loss = -nn.functional.cosine_similarity(student(x1), outputs[0]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        teacher.update(student)
        update()
        assert teacher.network is not None
        ours, theirs = (copy.deepcopy(net.state_dict()) for net in (teacher.network, network))
        found.append(({"outputs": outputs[0], **ours}, {"outputs": outputs[1], **theirs}))
    return found


@each_case
def test_each_parameter_buffer_and_output_is_the_schemes(case: Case) -> None:
    for ours, theirs in compared(case, case.scheme):
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            if name.endswith("num_batches_tracked") and case.averages_counters:
                assert theirs[name] < tensor  # a fraction of it, cut to an integer
            else:
                torch.testing.assert_close(theirs[name], tensor, atol=1e-12, rtol=1e-12, msg=name)


@each_case
def test_no_other_rule_gives_these_outputs(case: Case) -> None:
    for scheme in {"bn", "eman", "student-pn-0.9", "teacher-pn-0.9"} - {case.scheme.replace("0.999", "0.9")}:
        ours, theirs = compared(case, scheme)[-1]
        assert not torch.allclose(ours["outputs"], theirs["outputs"], atol=1e-3), scheme


@pytest.mark.parametrize("use_buffers", [False, True])
def test_in_training_mode_what_happens_to_buffers_changes_no_output(use_buffers: bool) -> None:
    student = student_of(0.1)
    teacher, (network, update) = Teacher(student, "bn", MOMENTUM), averaged_model(student, use_buffers)
    network.train()
    for _ in range(3):
        student(torch.randn(16, 1, 8, 8, dtype=torch.float64))
        with torch.no_grad():
            for parameter in student.parameters():
                parameter.add_(torch.randn_like(parameter))
        teacher.update(student)
        update()
        x = torch.randn(16, 1, 8, 8, dtype=torch.float64)
        torch.testing.assert_close(network(x).detach(), teacher(x), atol=1e-12, rtol=1e-12)


def test_shuffling_in_one_process_changes_nothing() -> None:
    utils = lightly_utils()
    network = student_of(0.1).requires_grad_(False)
    x = torch.randn(16, 1, 8, 8, dtype=torch.float64)
    shuffled, order = utils.batch_shuffle(x)
    torch.testing.assert_close(utils.batch_unshuffle(network(shuffled), order), network(x), atol=1e-12, rtol=1e-12)


@each_case
def test_the_page_names_this_scheme_and_version(case: Case) -> None:
    if not importlib.util.find_spec(case.library):
        pytest.skip(f"{case.library} is not installed; `make install` adds it")
    begin = f"| {case.library} {importlib.metadata.version(case.library).partition('+')[0]}, tested"
    lines = (DOCS / "library-teachers.md").read_text(encoding="utf-8").splitlines()
    [line] = [line for line in lines if line.startswith(begin) and f"`{case.call}`" in line]
    assert f"`{case.scheme}`" in line


def test_the_finding_is_in_the_committed_results_and_in_the_paper() -> None:
    results = pd.read_parquet(DOCS / "results" / "mini.parquet")
    byol = results[results["column"] == "BYOL"].set_index("row")
    means = byol["value"].where(byol["status"] == "done", -math.inf).to_dict()
    copied = means[SCHEMES["student-pn-0.9"].title]
    others = {s.title for s in SCHEMES.values() if s.student in ("bn", "syncbn")} - {SCHEMES["student-pn-0.9"].title}
    assert copied < min(means[title] for title in others & means.keys()) - 5
    assert value("table8", SCHEMES["student-pn-0.9"].title, "BYOL") == "failed"
