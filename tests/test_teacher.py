"""The teacher: its equations against float64 loops, and the properties that make EMAN what it is."""

import copy
import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from eman.platform.errors import UserError
from eman.trainers.norm.averaging import Follower
from eman.trainers.norm.convert import convert_norm
from eman.trainers.norm.schemes import SCHEMES, Move, Scheme, TeacherNorm
from eman.trainers.norm.teacher import Teacher

README = Path(__file__).resolve().parent.parent / "README.md"


def network(devices: int = 1, norm: str = "bn") -> nn.Sequential:
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 6), nn.BatchNorm1d(6)
    )
    return convert_norm(plain, norm, devices=devices)  # type: ignore[return-value]


def images(n: int = 16) -> torch.Tensor:
    return torch.randn(n, 1, 8, 8)


def perturb(student: nn.Module) -> None:
    """Stands for training: other parameters, other statistics."""
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn_like(parameter))
    student.train()
    student(images() * 2 + 1)


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.999])
@pytest.mark.parametrize("eman_momentum", [None, 0.5])
def test_update_is_equations_1_and_9(momentum: float, eman_momentum: float | None) -> None:
    student = network()
    teacher = Teacher(student, "eman", momentum, eman_momentum)
    expected = {name: tensor.double().clone() for name, tensor in student.state_dict().items()}
    for _ in range(3):
        perturb(student)
        teacher.update(student)
        for name, tensor in student.state_dict().items():
            m = momentum if eman_momentum is None or "running" not in name else eman_momentum
            expected[name] = (
                tensor.double() if tensor.dtype == torch.int64 else m * expected[name] + (1 - m) * tensor.double()
            )
    assert teacher.network is not None
    for name, tensor in teacher.network.state_dict().items():
        torch.testing.assert_close(tensor.double(), expected[name], atol=1e-5, rtol=1e-5)


def test_integer_buffers_are_copied_with_their_type() -> None:
    student = network()
    teacher = Teacher(student, "eman", 0.999)
    for _ in range(5):
        student(images())
    teacher.update(student)
    assert teacher.network is not None
    tracked = teacher.network[1].num_batches_tracked
    assert tracked.dtype == torch.int64
    assert tracked == 5


def test_it_equals_pytorchs_averaged_model_held_in_evaluation_mode() -> None:
    student = network()
    teacher = Teacher(student, "eman", 0.9)
    stock = AveragedModel(student, avg_fn=get_ema_avg_fn(0.9), use_buffers=True)
    stock.update_parameters(student)  # its first update copies
    for _ in range(4):
        perturb(student)
        teacher.update(student)
        stock.update_parameters(student)
    x = images()
    torch.testing.assert_close(teacher(x), stock.eval()(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("scheme", "independent"),
    [
        ("bn", False),
        ("syncbn", False),
        ("eman", True),
        ("eman-m0.9", True),
        ("student-pn-0.9", True),
        ("teacher-pn-0.9", True),
        ("gn", True),
        ("in", True),
        ("ln", True),
        ("gn-ws", True),
        ("evonorm-s0", True),
        ("frn", True),
        ("syncbn-eman", True),
        ("eman-corrected", True),
        ("momentum2", False),
        ("frozen", True),
    ],
)
def test_which_teachers_ignore_batch_mates(scheme: str, independent: bool) -> None:
    teacher = Teacher(network(norm=SCHEMES[scheme].student), scheme, steps=10)
    x = images()
    state = copy.deepcopy(teacher.state_dict())
    alone = teacher(x)[:2]
    teacher.load_state_dict(state)
    with_others = teacher(torch.cat([x[:2], images(14) * 5]))[:2]
    assert torch.allclose(alone, with_others, atol=1e-5) == independent


def test_momentum_0_equals_the_student_in_evaluation_mode() -> None:
    student = network()
    teacher = Teacher(student, "eman", 0.0)
    perturb(student)
    teacher.update(student)
    x = images()
    with torch.no_grad():  # with a gradient, PyTorch's own norms compute the same with other rounding
        torch.testing.assert_close(teacher(x), student.eval()(x), atol=0, rtol=0)


def test_student_proxy_norm_copies_statistics_and_averages_parameters() -> None:
    student = network()
    teacher = Teacher(student, "student-pn-0.9", 0.9)
    before = student[0].weight.detach().clone()
    perturb(student)
    teacher.update(student)
    assert teacher.network is not None
    torch.testing.assert_close(teacher.network[1].running_mean, student[1].running_mean, atol=0, rtol=0)
    torch.testing.assert_close(teacher.network[0].weight, 0.9 * before + 0.1 * student[0].weight)


@pytest.mark.parametrize("devices", [1, 4])
def test_teacher_proxy_norm_uses_the_statistics_of_before_this_batch(devices: int) -> None:
    student = network(devices)
    teacher = Teacher(student, "teacher-pn-0.9", 0.9)
    assert teacher.network is not None
    frozen = copy.deepcopy(teacher.network)
    for layer in frozen.modules():
        layer._forward_hooks.clear()
    x = images() + 2
    torch.testing.assert_close(teacher(x), frozen(x), atol=0, rtol=0)
    # Eq. (4) on the teacher's own inputs (device 0's), by hand for the first layer.
    inputs = frozen[0](x)[::devices].double()
    mean = 0.9 * frozen[1].running_mean.double() + 0.1 * inputs.mean((0, 2, 3))
    torch.testing.assert_close(teacher.network[1].running_mean.double(), mean, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(teacher(x), frozen(x))
    perturb(student)
    kept = teacher.network[1].running_mean.clone()
    teacher.update(student)
    torch.testing.assert_close(teacher.network[1].running_mean, kept, atol=0, rtol=0)


def test_bias_corrected_statistics_are_averages_of_the_students_alone() -> None:
    """s := m s + (1 - m) mu from s = 0, divided by 1 - the product of all m, also when m varies."""
    student = network()
    teacher = Teacher(student, "eman-corrected", 0.9)
    assert teacher.network is not None
    names = ("running_mean", "running_var")
    sums, product = dict.fromkeys(names, 0.0), 1.0
    for m in (1.0, 0.99, 0.5, 0.999, 1.0):
        perturb(student)
        teacher.update(student, m)
        product *= m
        for name in names:
            sums[name] = m * sums[name] + (1 - m) * student[1].get_buffer(name).double()
            if product < 1:
                found = teacher.network[1].get_buffer(name).double()
                torch.testing.assert_close(found, sums[name] / (1 - product), atol=1e-6, rtol=1e-5)
            else:
                assert torch.equal(teacher.network[1].get_buffer(name), torch.full((8,), float(name == names[1])))


def test_frozen_statistics_are_those_of_the_start() -> None:
    student = network()
    perturb(student)
    teacher = Teacher(student, "frozen", 0.5)
    start = copy.deepcopy(student).eval()
    x = images()
    torch.testing.assert_close(teacher(x), start(x), atol=1e-6, rtol=1e-5)
    perturb(student)
    teacher.update(student)
    assert teacher.network is not None
    assert torch.equal(teacher.network[1].running_mean, start[1].running_mean)
    assert not torch.equal(teacher.network[0].weight, start[0].weight)


@pytest.mark.parametrize("source", ["device0", "mean"])
def test_momentum_statistics_take_in_the_batch_that_they_normalize(source: str) -> None:
    """A float64 loop over devices and two views a step, with the batch's weight falling from 1 to 0."""
    torch.manual_seed(0)
    student = nn.Sequential(nn.BatchNorm2d(3))
    convert_norm(student, "bn", devices=2, device_statistics=source)
    student[0].weight.data.uniform_(0.5, 2)
    teacher = Teacher(student, "momentum2", 0.9, steps=4)
    mean, var = torch.zeros(3).double(), torch.ones(3).double()
    for step in range(5):
        views = [torch.randn(8, 3, 4, 4) * (view + 1) + step for view in range(2)]
        _, found = teacher.pair(lambda *inputs: [student(x) for x in inputs], views, views)
        a = (1 + math.cos(math.pi * min(step, 4) / 4)) / 2
        seen = []
        for x, y in zip(views, found, strict=True):
            for device in range(2):
                part = x[device::2].double()
                blended = (
                    a * part.mean((0, 2, 3)) + (1 - a) * mean,
                    a * part.var((0, 2, 3)) + (1 - a) * var,
                )
                center, spread = (s[:, None, None] for s in blended)
                expected = (part - center) / torch.sqrt(spread + 1e-5) * student[0].weight.double()[:, None, None]
                torch.testing.assert_close(y[device::2].double(), expected, atol=1e-4, rtol=1e-4)
                if source == "mean" or device == 0:
                    seen.append(blended)
        mean, var = (torch.stack([s[i] for s in seen]).mean(0) for i in range(2))
    assert teacher.network is not None
    torch.testing.assert_close(teacher.network[0].running_mean.double(), mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(teacher.network[0].running_var.double(), var, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scheme", [name for name, scheme in SCHEMES.items() if name != "default"])
def test_a_plain_loop_resumes_bit_exactly(scheme: str) -> None:
    def begin() -> tuple[nn.Module, Teacher, torch.optim.Optimizer]:
        student = network(devices=2, norm=SCHEMES[scheme].student)
        return student, Teacher(student, scheme, 0.9, steps=6), torch.optim.SGD(student.parameters(), 0.1, momentum=0.9)

    def train(parts: tuple[nn.Module, Teacher, torch.optim.Optimizer], steps: range) -> None:
        student, teacher, optimizer = parts
        for step in steps:
            torch.manual_seed(step)
            optimizer.zero_grad()
            (student(images()) - teacher(images())).square().mean().backward()
            optimizer.step()
            teacher.update(student)

    whole, first, second = begin(), begin(), begin()
    train(whole, range(6))
    train(first, range(3))
    for mine, theirs in zip(second, first, strict=True):
        mine.load_state_dict(copy.deepcopy(theirs.state_dict()))
    train(second, range(3, 6))
    for mine, theirs in zip(second[:2], whole[:2], strict=True):
        for name, tensor in theirs.state_dict().items():
            assert torch.isfinite(tensor).all()
            assert torch.equal(mine.state_dict()[name], tensor), name


def test_shuffling_is_undone_and_changes_whose_statistics_count() -> None:
    student = network(devices=4)
    shuffled, plain = Teacher(student, "shufflebn", seed=3), Teacher(student, "bn")
    x = images()
    assert not torch.allclose(shuffled(x), plain(x), atol=1e-3)
    # With the same image everywhere on a device the permutation alone shows: outputs must follow their inputs.
    one_device = Teacher(network(devices=2), "shufflebn")
    assert one_device.network is not None
    one_device.network.eval()  # no batch statistics: only the order can differ
    torch.testing.assert_close(one_device(x), one_device.network(x))
    shuffled.load_state_dict(plain.state_dict())
    assert not torch.allclose(shuffled(x), shuffled(x), atol=1e-3)  # each pass has a permutation of its own


def test_shuffling_one_device_is_refused() -> None:
    with pytest.raises(UserError, match="there is one device"):
        Teacher(network(), "shufflebn")


@pytest.mark.parametrize("scheme", ["bn", "eman", "teacher-pn-0.9"])
def test_outside_calls_leave_its_mode_alone(scheme: str) -> None:
    teacher = Teacher(network(), scheme)
    holder = nn.ModuleDict({"teacher": teacher})
    assert teacher.network is not None
    modes = []
    for call in (holder.eval, holder.train):
        call()
        modes.append(teacher.network[1].training)
    assert modes == [scheme == "bn"] * 2


def test_it_needs_no_gradient_and_does_not_hold_its_student() -> None:
    student = network()
    teacher = Teacher(student, "eman")
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not teacher(images()).requires_grad
    assert len(list(teacher.parameters())) == len(list(student.parameters()))


def test_joint_pass_shares_statistics() -> None:
    student = network()
    teacher = Teacher(student, "default")
    first, second = images(4), images(12) * 4
    outputs_S, outputs_T = teacher.pair(lambda x: [student(x)], [first], [second])
    together = student(torch.cat([first, second]))
    torch.testing.assert_close(outputs_S[0], together[:4])
    torch.testing.assert_close(outputs_T[0], together[4:])
    assert not outputs_T[0].requires_grad
    with pytest.raises(UserError, match="no teacher network"):
        teacher(first)


def test_every_policy_says_what_happens_to_each_kind_of_tensor() -> None:
    """A declaration is enough: no other code knows the policies."""
    student = network()
    student.register_buffer("scale", torch.zeros(3))
    frozen = TeacherNorm(title="x", parameters=Move.COPY, statistics=Move.KEEP, buffers=Move.AVERAGE)
    follower = Follower(teacher := copy.deepcopy(student), student, frozen)
    perturb(student)
    student.get_buffer("scale").fill_(1)
    kept = teacher[1].running_mean.clone()
    follower.update(0.75, 0.75, torch.zeros(()))
    assert torch.equal(teacher[0].weight, student[0].weight)
    assert torch.equal(teacher[1].running_mean, kept)
    assert torch.equal(teacher.get_buffer("scale"), torch.full((3,), 0.25))
    assert teacher[1].num_batches_tracked == 0


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="did you mean 'eman'"):
        Teacher(network(), "emman")
    with pytest.raises(UserError, match=r"momentum is 1\.5"):
        Teacher(network(), "eman", 1.5)
    with pytest.raises(UserError, match="the student has none"):
        Teacher(nn.Linear(3, 3), "eman")
    with pytest.raises(UserError, match=re.escape("call convert_norm(student, 'gn') first")):
        Teacher(network(), "gn")
    with pytest.raises(UserError, match="steps is None; give the number of steps"):
        Teacher(network(), "momentum2")
    with pytest.raises(UserError, match="keeps none"):
        Teacher(network(norm="gn"), Scheme(title="x", student="gn", teacher="eman"))


def test_it_survives_a_move_between_types_and_a_reload() -> None:
    student = network()
    teacher = Teacher(student, "eman", 0.5)
    student.double()
    teacher.double()
    teacher.load_state_dict(copy.deepcopy(teacher.state_dict()))
    student(images().double())
    teacher.update(student)
    assert teacher.network is not None
    assert teacher.network[1].running_mean.dtype == torch.float64
    assert teacher.network[1].num_batches_tracked == 1


def test_the_example_in_the_readme_runs() -> None:
    example = re.search(r"```python\n(.*?Teacher.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert example
    namespace: dict[str, object] = {}
    exec(example[1], namespace)
    assert isinstance(namespace["teacher"], Teacher)
