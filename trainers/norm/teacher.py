"""The teacher of student-teacher learning.

Use it in your own training loop::

    teacher = Teacher(student, scheme="eman", momentum=0.999)
    for x1, x2 in batches:
        loss = criterion(student(x1), teacher(x2))
        loss.backward(); optimizer.step(); optimizer.zero_grad()
        teacher.update(student)

The scheme's :class:`~eman.trainers.norm.schemes.TeacherNorm` declares how it normalizes, in which mode it runs and how
its tensors are updated; :mod:`~eman.trainers.norm.policies` and :mod:`~eman.trainers.norm.averaging` implement it.

Shapes: B images, N of them on this worker.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from eman.platform.errors import UserError
from eman.trainers.hashing import permutation
from eman.trainers.norm.averaging import Follower
from eman.trainers.norm.momentum_bn import batch_weight
from eman.trainers.norm.policies import blended_passes, teacher_network, teacher_pass
from eman.trainers.norm.rules import StatisticsRule
from eman.trainers.norm.schemes import TEACHER_NORMS, Move, Scheme, check_names, scheme_named
from eman.trainers.norm.statistics import batch_norms


class Teacher(nn.Module):
    r"""A teacher that follows a student by exponential moving average.

    Parameters follow Eq. (1), :math:`\theta' := m\theta' + (1-m)\theta`. The scheme decides how the statistics of batch
    norms follow. Under EMAN, Eq. (9), :math:`\mu' := m\mu' + (1-m)\mu` and likewise for the variance; the teacher
    normalizes with them, Eq. (8), so each output depends on its own image alone. Other floating-point buffers are
    averaged like parameters (Algorithm 1), integer buffers are copied.

    It works with any ``nn.Module``, also wrapped in ``DistributedDataParallel``. ``.train()`` and ``.eval()``, on it or
    on a module that contains it, do not change the mode of its network.

    Args:
        student: The network to follow. The teacher starts as a copy.
        scheme: A name in :data:`eman.trainers.norm.schemes.SCHEMES`, or a :class:`~eman.trainers.norm.schemes.Scheme`.
        momentum: Momentum m of Eq. (1), in [0, 1].
        eman_momentum: Momentum m of Eq. (9), in [0, 1]; ``None`` for the scheme's, or else that of Eq. (1).
        seed: Seed of ShuffleBN's permutations.
        steps: Steps of the run, each with one pass of the teacher (or one :meth:`pair`); for schemes that change the
            weight of a batch over the run (``momentum2``).

    Raises:
        UserError: The scheme does not exist or does not fit the student, a momentum is outside [0, 1], or ``steps`` is
            missing.
    """

    def __init__(
        self,
        student: nn.Module,
        scheme: str | Scheme = "eman",
        momentum: float = 0.999,
        eman_momentum: float | None = None,
        seed: int = 0,
        steps: int | None = None,
    ) -> None:
        super().__init__()
        self.passes: Tensor
        self.student_share: Tensor
        self.scheme = scheme_named(scheme) if isinstance(scheme, str) else scheme
        check_names(self.scheme.student, self.scheme.teacher)
        self.norm = TEACHER_NORMS[self.scheme.teacher]
        self.momentum = _checked("momentum", momentum)
        eman_momentum = self.scheme.eman_momentum if eman_momentum is None else eman_momentum
        self.eman_momentum = None if eman_momentum is None else _checked("eman_momentum", eman_momentum)
        self.seed = seed
        self.steps = self._checked_steps(steps)
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))
        self.register_buffer("student_share", torch.zeros(()))  # 1 - Π m, for bias-corrected statistics
        self.network: nn.Module | None = None
        self.rule: StatisticsRule | None = None
        self._follower: Follower | None = None
        if not self.norm.joint:
            source = _unwrap(student)
            self.network = teacher_network(source, self.scheme)
            self.rule = self._made_rule(self.network)
            self._follower = Follower(self.network, source, self.norm, self.rule)
        self.train()

    def _made_rule(self, network: nn.Module) -> StatisticsRule | None:
        if isinstance(self.norm.statistics, Move):
            return None
        pairs = [(layer.running_mean, layer.running_var) for layer in batch_norms(network)]
        return self.norm.statistics([x for pair in pairs for x in pair if x is not None])

    @property
    def joint(self) -> bool:
        """Whether there is no second network: the student's own pass yields the teacher's outputs."""
        return self.norm.joint

    def train(self, mode: bool = True) -> "Teacher":
        """Set ``training``, but keep the network in the mode that the scheme needs (``TeacherNorm.own_batch``)."""
        self.training = mode
        if self.network is not None:
            self.network.train(self.norm.own_batch)
        return self

    @torch.no_grad()
    def forward(self, x_N: Tensor) -> Tensor:
        """Return the teacher's outputs, ``(N, ...)``, Eq. (7), without gradient.

        Args:
            x_N: Images, ``(N, ...)``.

        Raises:
            UserError: The scheme has no teacher network.
        """
        if self.network is None:
            raise UserError(
                f"scheme {self.scheme.title!r} has no teacher network; use Teacher.pair, which takes the "
                f"student's own pass."
            )
        if self.norm.blends:
            return self._run_on([x_N])[0]
        return teacher_pass(self.network, self.scheme, x_N, self._permutation)

    def _permutation(self, rows: int) -> Tensor:
        """Return a permutation that depends on the seed and the number of passes, equal on all workers."""
        self.passes.add_(1)
        return permutation(rows, self.seed, self.passes)

    @torch.no_grad()
    def update(self, student: nn.Module, momentum: float | Tensor | None = None) -> None:
        """Update the teacher from its student: Eq. (1), and Eq. (9) under EMAN.

        Args:
            student: The network given at construction (or its DDP wrapper), or another of the same structure.
            momentum: Momentum m of this step, for schedules (BYOL): a number, or a scalar tensor on the network's
                device; ``None`` for the one given at construction.
        """
        if self.network is None or self._follower is None:
            return
        if _unwrap(student) is not self._follower.student:
            self._follower = Follower(self.network, _unwrap(student), self.norm, self.rule)
        momentum = self.momentum if momentum is None else momentum
        eman_momentum = momentum if self.eman_momentum is None else self.eman_momentum
        self._follower.update(momentum, eman_momentum, self.student_share)

    def _checked_steps(self, steps: int | None) -> int:
        if not self.norm.blends:
            return 0
        if steps is None or steps < 1:
            raise UserError(
                f"scheme {self.scheme.title!r} changes the weight of a batch over the run, and steps is {steps}; give "
                f"the number of steps, for example Teacher(student, scheme, steps=10_000)."
            )
        return steps

    def pair(
        self,
        student: Callable[..., list[Tensor]],
        student_inputs: Sequence[Tensor],
        teacher_inputs: Sequence[Tensor],
        between: Callable[[], None] | None = None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return both networks' outputs for one step.

        Args:
            student: From several inputs to a list of outputs, in one DDP forward pass.
            student_inputs: Inputs of the student, each ``(N, ...)``.
            teacher_inputs: Inputs of the teacher, each ``(N, ...)``.
            between: Called after the student's pass and before the teacher's (MoCo updates its teacher there).

        Returns:
            The student's outputs and the teacher's, the latter without gradient.
        """
        return next(self.pairs(student, student_inputs, teacher_inputs, between))

    def pairs(
        self,
        student: Callable[..., list[Tensor]],
        student_inputs: Sequence[Tensor],
        teacher_inputs: Sequence[Tensor],
        between: Callable[[], None] | None = None,
        split: Callable[[Tensor], list[Tensor]] = lambda x: [x],
    ) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """Yield the outputs of :meth:`pair` for each part of the batch.

        The student runs on each part when it is requested. A teacher network runs once on the whole batch, after the
        student's first part: without gradient this takes little memory, and its batch statistics and permutations are
        those of the whole batch.

        Args:
            student: As in :meth:`pair`.
            student_inputs: The whole batch.
            teacher_inputs: The whole batch.
            between: As in :meth:`pair`; called once, after the student's first part.
            split: From an input or output for the whole batch to its parts.
        """
        between = between or (lambda: None)
        parts_S = list(zip(*map(split, student_inputs), strict=True))
        if self.joint:
            yield from _joint_pairs(student, parts_S, list(zip(*map(split, teacher_inputs), strict=True)), between)
            return
        outputs_S = student(*parts_S[0])
        between()
        parts_T = list(zip(*map(split, self._run_on(teacher_inputs)), strict=True))
        yield outputs_S, list(parts_T[0])
        for inputs_S, part_T in zip(parts_S[1:], parts_T[1:], strict=True):
            yield student(*inputs_S), list(part_T)

    @torch.no_grad()
    def _run_on(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        if self.norm.blends:
            assert self.network is not None
            weight = batch_weight(self.passes.to(self.student_share.dtype), self.steps)
            self.passes.add_(1)
            return blended_passes(self.network, inputs, weight)
        if not self.norm.independent:
            return [self(x) for x in inputs]
        together: Tensor = self(torch.cat(list(inputs)))  # outputs do not depend on the other images
        return list(together.split([len(x) for x in inputs]))


def _joint_pairs(
    student: Callable[..., list[Tensor]],
    parts_S: Sequence[tuple[Tensor, ...]],
    parts_T: Sequence[tuple[Tensor, ...]],
    between: Callable[[], None],
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Yield both outputs of one student pass over all inputs, which share batch statistics."""
    for number, (inputs_S, inputs_T) in enumerate(zip(parts_S, parts_T, strict=True)):
        pieces = [*inputs_S, *inputs_T]
        outputs = student(torch.cat(pieces))[0].split([len(piece) for piece in pieces])
        if number == 0:
            between()
        cut = len(inputs_S)
        yield list(outputs[:cut]), [output.detach() for output in outputs[cut:]]


def _checked(name: str, momentum: float) -> float:
    if not 0 <= momentum <= 1:
        raise UserError(f"{name} is {momentum}; it must lie between 0 and 1.")
    return momentum


def _unwrap(module: nn.Module) -> nn.Module:
    return module.module if isinstance(module, DistributedDataParallel) else module
