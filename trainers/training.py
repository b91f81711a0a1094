"""A run's data, networks and optimizer, and its training step, for all methods, on one worker or several.

Shapes: N images of this worker's batch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from eman.platform.workspace import Workspace
from eman.trainers import distributed, optim
from eman.trainers.batches import Batches, Samples
from eman.trainers.data.splits import AnySplit, DataSet
from eman.trainers.graph import GraphedStep, uses_graph
from eman.trainers.networks import (
    OneForward,
    build_student,
    compiler_errors,
    lay_out,
    memory_format,
)
from eman.trainers.norm.device_bn import device_norms, frozen_statistics
from eman.trainers.norm.statistics import plain_averages, share_statistics
from eman.trainers.norm.teacher import Teacher
from eman.trainers.precision import autocast, choose_algorithms, use_whole_float32
from eman.trainers.rates import Rates
from eman.trainers.spec.labels import scheme_of
from eman.trainers.spec.method import TeacherSection
from eman.trainers.spec.run import RunSpec

#: Loss, other measures, and the student's first output.
StepResult = tuple[Tensor, dict[str, Tensor], Tensor]


class Training:
    """The state of a run, and its training step. Create it by :meth:`fresh` or :meth:`resumed`.

    Attributes:
        batches: The run's data, and this worker's views of each step.
        student: ``nn.Sequential`` of ``backbone`` and the method's heads.
        followed: The part of the student that the teacher follows.
        teacher: The teacher, or ``None`` for a method without one.
        average: A moving average of the student that only evaluations use (``average_student``), or ``None``.
        step: Steps taken so far.
        steps: Steps of the whole run.
    """

    def __init__(self, spec: RunSpec, workspace: Workspace) -> None:
        self.spec, self.method = spec, spec.entry
        self.parts = spec.execution.accumulate or 1
        self.local = distributed.devices_here(spec.norm.devices, self.parts)
        self.device = distributed.device()
        self.dtype = torch.float64 if spec.network.precision == "float64" else torch.float32
        use_whole_float32()
        choose_algorithms(deterministic=not spec.execution.nondeterministic)
        self.batches = Batches(spec, workspace, self.device, self.dtype)
        self.step, self.steps_per_epoch = 0, self.batches.steps_per_epoch
        self.steps = self.steps_per_epoch * spec.optim.epochs
        classes = len(self.dataset.classes)
        student = build_student(spec, workspace, self.train.shape, classes, self.local).to(self.device, self.dtype)
        self.student = student
        self.memory_format = memory_format(spec, student, self.device)
        lay_out(student, self.memory_format)
        parts = self.method.parts()
        generator = torch.Generator().manual_seed(spec.seed)
        self.criterion = parts.criterion(spec.method, spec.norm.devices, generator).to(self.device, self.dtype)
        self.optimizer = optim.optimizer(spec.optim, student)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=spec.network.precision == "fp16")
        self.base_momentum = spec.method.momentum if isinstance(spec.method, TeacherSection) else 0.0
        self.followed = parts.followed(student)
        self.teacher: Teacher | None = None
        if self.method.teacher:
            teacher = Teacher(self.followed, scheme_of(spec), self.base_momentum, seed=spec.seed, steps=self.steps)
            self.teacher = teacher.to(self.device, self.dtype)
        self.average: Teacher | None = None
        if isinstance(spec.method, TeacherSection) and spec.method.average_student:
            average = Teacher(self.followed, "student-pn-0.9", self.base_momentum)
            self.average = average.to(self.device, self.dtype)
        for layer in device_norms(student):  # not the teacher, copied above: it sees the whole batch at once
            layer.devices //= self.parts
        self._passes = OneForward(student)
        self._ddp: nn.Module = self._passes
        if distributed.workers() > 1:
            self._ddp = DistributedDataParallel(self._passes, forward_sync_buffers=False)
        self._rates = Rates(self.base_momentum, spec.optim.lr)
        self._compute: Callable[[Mapping[str, Samples]], StepResult] = self._take_step
        if uses_graph(spec, self.device, distributed.workers(), max(self.train.shape[1:])):
            self._rates = Rates(*(torch.zeros((), dtype=self.dtype, device=self.device) for _ in range(2)))
            self._compute = GraphedStep(self._take_step)

    @classmethod
    def fresh(cls, spec: RunSpec, workspace: Workspace) -> Self:
        """Start a run.

        Raises:
            UserError: Data or the initial run are missing, or the workers do not divide the devices.
        """
        training = cls(spec, workspace)
        if spec.norm.statistics_passes:
            training._initialize_statistics(spec.norm.statistics_passes)
        training._compile()
        return training

    @classmethod
    def resumed(cls, spec: RunSpec, workspace: Workspace, state: Mapping[str, Any]) -> Self:
        """Continue a run from its :meth:`state`.

        Raises:
            UserError: As for :meth:`fresh`, or the data set has changed since the run started.
        """
        training = cls(spec, workspace)
        training._load(state)
        training._compile()
        return training

    @property
    def teacher_network(self) -> nn.Module | None:
        """The network to evaluate as the teacher, if there is one."""
        follower = self.average or self.teacher
        return None if follower is None else follower.network

    @property
    def dataset(self) -> DataSet:
        """The whole data set."""
        return self.batches.dataset

    @property
    def train(self) -> AnySplit:
        """The training images that the run uses."""
        return self.batches.train

    @property
    def held_out(self) -> AnySplit:
        """The held-out images; the test images if the run holds out none."""
        return self.batches.held_out

    @property
    def labelled(self) -> Tensor | None:
        """int64, indices of the labelled images in ``train``; ``None`` for a method without labels."""
        return self.batches.labelled

    @torch.no_grad()
    def _initialize_statistics(self, passes: int) -> None:
        """Set the running statistics of student and teacher to plain averages over ``passes`` batches.

        In short runs the initial values, 0 and 1, would not fade. The same for every scheme.
        """
        with plain_averages(self.student):
            for step in range(passes):
                inputs = self._inputs(self.batches.at(step)[0], self.method.student_passes(self.spec.method))
                with self._autocast():
                    self._passes(*(self._split(x)[0] for x in inputs))  # of device 0, whose statistics are kept
        if self.teacher_network is not None:
            self.teacher_network.load_state_dict(self.followed.state_dict())

    def _compile(self) -> None:
        if self.spec.execution.compile:
            self.student.compile()
            if self.teacher_network is not None:
                self.teacher_network.compile()

    def _autocast(self) -> AbstractContextManager[None]:
        return autocast(self.device, self.spec.network.precision)

    def close(self) -> None:
        """Stop the loaders."""
        self.batches.close()

    def _inputs(self, views: dict[str, Tensor], passes: tuple[tuple[str, ...], ...]) -> list[Tensor]:
        inputs = [torch.cat([views[name] for name in names]) if len(names) > 1 else views[names[0]] for names in passes]
        return [x.to(memory_format=self.memory_format) for x in inputs]

    def _split(self, x_N: Tensor) -> list[Tensor]:
        return distributed.split_devices(x_N, self.parts, self.local)

    def _outputs(self, views: dict[str, Tensor]) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """Yield the outputs of student and teacher, part by part of the batch."""

        def between() -> None:
            if self.method.teacher_moves == "between":
                self._move_teacher()

        student_inputs = self._inputs(views, self.method.student_passes(self.spec.method))
        if self.teacher is not None:
            teacher_inputs = self._inputs(views, self.method.teacher_passes(self.spec.method))
            yield from self.teacher.pairs(self._ddp, student_inputs, teacher_inputs, between, self._split)
            return
        for number, inputs in enumerate(zip(*map(self._split, student_inputs), strict=True)):
            outputs_S = self._ddp(*inputs)
            if number == 0:
                between()
            yield outputs_S, []

    @contextmanager
    def _part(self, number: int) -> Iterator[None]:
        """Wrap the forward and backward pass of a part.

        Only the first part, with device 0, updates running statistics; only the last reduces gradients over workers.
        """
        with ExitStack() as stack:
            if self.spec.execution.compile:
                stack.enter_context(compiler_errors())
            if number > 0:
                stack.enter_context(frozen_statistics(self.student))
            if number < self.parts - 1 and isinstance(self._ddp, DistributedDataParallel):
                stack.enter_context(self._ddp.no_sync())
            yield

    def train_step(self) -> StepResult:
        """Take one step.

        Returns:
            The loss and the method's other measures, scalars, for this worker's batch; and the student's first output,
            first axis N. The next step may overwrite these tensors.
        """
        self._rates = self._rates.at(self.momentum_at(self.step), self.learning_rate_at(self.step))
        self.student.train()
        result = self._compute(self.batches.samples(self.step))
        self.step += 1
        return result

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        return optim.learning_rate(self.spec.optim, step, self.steps_per_epoch)

    def momentum_at(self, step: int) -> float:
        """Return the momentum m of Eq. (1) at a step, counted from 0."""
        section = self.spec.method
        return self.method.momentum(section, step, self.steps) if isinstance(section, TeacherSection) else 0.0

    def _take_step(self, samples: Mapping[str, Samples]) -> StepResult:
        """Compute a step on the device, without waiting for it."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._rates.lr
        views, labels = self.batches.views(samples)
        self.optimizer.zero_grad(set_to_none=True)
        loss, measures, output, teachers = self._gradients(views, labels)
        self.criterion.after_step(teachers)
        measures = measures | self._move_student()
        if self.method.teacher_moves == "after":
            self._move_teacher()
        return loss, measures, output

    def _gradients(
        self, views: dict[str, Tensor], labels: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor], Tensor, list[Tensor]]:
        """Accumulate gradients; return loss, measures, the student's first output and the teacher's outputs."""
        outputs, parts = self._outputs(views), []
        for number in range(self.parts):
            with self._part(number):
                with self._autocast():
                    pair = next(outputs)
                outputs_S, outputs_T = ([y.to(self.dtype) for y in of_network] for of_network in pair)
                part_labels = {name: self._split(y)[number] for name, y in labels.items()}
                loss, measures = self.criterion(outputs_S, outputs_T, part_labels)
                self.scaler.scale(loss / self.parts).backward()
            parts.append((loss.detach(), measures, outputs_S[0].detach(), outputs_T))
        losses, measured, firsts, teachers = zip(*parts, strict=True)
        return (
            _mean(losses),
            {name: _mean([values[name] for values in measured]) for name in measured[0]},
            torch.cat(firsts),
            [distributed.join_devices(list(of_parts), self.local) for of_parts in zip(*teachers, strict=True)],
        )

    def _move_teacher(self) -> None:
        """Apply Eqs. (1) and (9), after sharing the student's running statistics among workers.

        Sharing here, right after the gradients' reduction in most methods, saves another wait within the step.
        """
        share_statistics(self.student)
        for follower in (self.teacher, self.average):
            if follower is not None:
                follower.update(self.followed, self._rates.momentum)

    def _move_student(self) -> dict[str, Tensor]:
        """Take the optimizer's step. Under fp16, skip and count steps with gradients that are not finite.

        Schedules and teacher still advance, as after a step with learning rate 0.
        """
        if not self.scaler.is_enabled():
            self.optimizer.step()
            return {}
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)  # type: ignore[arg-type]  # our SGD has all that it uses
        self.scaler.update()
        return {"skipped": torch.tensor(float(self.scaler.get_scale() < scale), device=self.device)}

    def share_teacher_statistics(self) -> None:
        """Give all workers worker 0's running statistics of a teacher that normalizes with its own batches.

        Training does not use these statistics, so sharing them before they are saved is enough.
        """
        if self.teacher_network is not None:
            share_statistics(self.teacher_network)

    def state(self) -> dict[str, Any]:
        """Return the state from which :meth:`resumed` continues bit-exactly.

        It holds no random state: all random draws are functions of the step.
        """
        return {
            "step": self.step,
            "spec": self.spec.flat(),
            "data": self.dataset.hash,
            "student": self.student.state_dict(),
            "teacher": None if self.teacher is None else self.teacher.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "criterion": self.criterion.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def _load(self, state: Mapping[str, Any]) -> None:
        self.dataset.must_be(state["data"], self.spec.key)
        self.step = state["step"]
        self.student.load_state_dict(state["student"])
        if self.teacher is not None:
            self.teacher.load_state_dict(state["teacher"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.criterion.load_state_dict(state["criterion"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])

    def weights(self) -> dict[str, Any]:
        """Return the weights of both networks, for checkpoints that evaluations read."""
        network = self.teacher_network
        return {
            "spec": self.spec.flat(),
            "step": self.step,
            "data": self.dataset.hash,
            "student": self.student.state_dict(),
            "teacher": None if network is None else network.state_dict(),
        }


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean(0)
