"""The teacher: the only place that knows how a teacher normalizes, in which mode it runs and how it is moved.

The whole of it in a training loop of one's own::

    teacher = Teacher(student, scheme="eman", momentum=0.999)
    for x1, x2 in batches:
        loss = criterion(student(x1), teacher(x2))
        loss.backward(); optimizer.step(); optimizer.zero_grad()
        teacher.update(student)

Shapes: B images, N of them on this worker.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from eman.platform.errors import UserError
from eman.trainers import distributed
from eman.trainers.norm.convert import convert_norm
from eman.trainers.norm.device_bn import DeviceBatchNorm
from eman.trainers.norm.schemes import TEACHER_NORMS, Scheme, check_names, scheme_named
from eman.trainers.norm.statistics import batch_norms, batch_statistics, share_statistics

_Place = tuple[dict[str, Any], str]


class Teacher(nn.Module):
    r"""A teacher that follows a student by exponential moving average.

    Parameters follow Eq. (1), :math:`\theta' := m\theta' + (1-m)\theta`. The statistics of its batch norms follow what
    the scheme says; under EMAN that is Eq. (9), :math:`\mu' := m\mu' + (1-m)\mu` and likewise for the variance, and
    the teacher normalizes with them, Eq. (8): an affine map that ignores an image's batch mates. Other floating-point
    buffers are averaged like parameters (Algorithm 1), integer buffers are copied.

    It works on any ``nn.Module`` and under ``DistributedDataParallel``, whose wrapper it looks through. Calling
    ``.train()`` or ``.eval()`` on it, or on a module that holds it, leaves its mode alone.

    Args:
        student: The network to follow. The teacher starts as a copy.
        scheme: A name in :data:`eman.trainers.norm.schemes.SCHEMES`, or a :class:`~eman.trainers.norm.schemes.Scheme`.
        momentum: m of Eq. (1), in [0, 1].
        eman_momentum: m of Eq. (9), overriding the scheme's; ``None``: that of Eq. (1).
        seed: Decides ShuffleBN's permutations.

    Raises:
        UserError: The scheme does not exist, does not fit the student, or has no second network (FixMatch's default).
    """

    def __init__(
        self,
        student: nn.Module,
        scheme: str | Scheme = "eman",
        momentum: float = 0.999,
        eman_momentum: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.passes: Tensor
        self.scheme = scheme_named(scheme) if isinstance(scheme, str) else scheme
        check_names(self.scheme.student, self.scheme.teacher)
        self.norm = TEACHER_NORMS[self.scheme.teacher]
        self.momentum = _momentum("momentum", momentum)
        eman_momentum = self.scheme.eman_momentum if eman_momentum is None else eman_momentum
        self.eman_momentum = None if eman_momentum is None else _momentum("eman_momentum", eman_momentum)
        self.seed = seed
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))
        if self.norm.joint:
            self.network: nn.Module | None = None
            return
        source = _unwrap(student)
        self.network = copy.deepcopy(source).requires_grad_(False)
        self._fit_norms()
        self._pair_tensors(source)
        self.train()

    def _fit_norms(self) -> None:
        """Gives the copied batch norms what this teacher needs of them."""
        assert self.network is not None
        layers = list(batch_norms(self.network))
        if self.norm.statistics != "own" and not layers:
            raise UserError(
                f"scheme {self.scheme.title!r} averages the statistics of batch norms, and the student has "
                f"none; build it with BatchNorm, or choose a scheme such as bn, gn or ln."
            )
        self.devices = max((layer.devices for layer in layers if isinstance(layer, DeviceBatchNorm)), default=1)
        if self.norm.shuffle and self.devices * distributed.workers() == 1:
            raise UserError(
                "ShuffleBN moves images between the devices of a batch, and there is one device; give "
                "convert_norm(student, 'bn', devices=8), or run several workers."
            )
        if layers and self.norm.norm not in (None, "bn", "syncbn"):
            raise UserError(
                f"scheme {self.scheme.title!r} needs a student without batch norms; call "
                f"convert_norm(student, {self.scheme.student!r}) first."
            )
        if self.norm.norm in ("bn", "syncbn"):
            for layer in layers:
                if isinstance(layer, DeviceBatchNorm):
                    layer.sync = self.norm.norm == "syncbn"
                elif self.norm.norm == "syncbn":
                    self.network = convert_norm(self.network, "syncbn")
                    break
        if self.norm.statistics == "collect":
            alpha = self.scheme.teacher_proxy_momentum
            weight = 0.1 if alpha is None else 1 - alpha
            for layer in layers:
                layer.register_forward_hook(_collector(weight))

    def _pair_tensors(self, source: nn.Module) -> None:
        """Sorts the tensors of both networks into those that are averaged by (1), by (9), and copied.

        Places (a module's dictionary and a name) are kept instead of tensors, since ``.to()`` replaces buffers.
        """
        assert self.network is not None
        self._source = (source,)  # in a tuple, so that the student does not become a part of the teacher
        statistics = {id(layer) for layer in batch_norms(self.network)}
        kept = statistics if self.norm.statistics in ("own", "collect") else set()
        self._averaged: list[tuple[_Place, _Place]] = []
        self._statistics: list[tuple[_Place, _Place]] = []
        self._copied: list[tuple[_Place, _Place]] = []
        for mine, theirs in zip(self.network.modules(), source.modules(), strict=True):
            for name, parameter in mine._parameters.items():
                if parameter is not None:
                    self._averaged.append(((mine._parameters, name), (theirs._parameters, name)))
            for name, buffer in mine._buffers.items():
                if buffer is None or id(mine) in kept:
                    continue
                place: tuple[_Place, _Place] = ((mine._buffers, name), (theirs._buffers, name))
                if not buffer.is_floating_point():
                    self._copied.append(place)
                elif id(mine) not in statistics:
                    self._averaged.append(place)
                elif self.norm.statistics == "copy":
                    self._copied.append(place)
                else:
                    self._statistics.append(place)

    @property
    def joint(self) -> bool:
        """Whether the student's own pass serves as the teacher's, so that there is no second network."""
        return self.norm.joint

    def train(self, mode: bool = True) -> "Teacher":
        """Keeps the mode that the scheme asks for: training where it normalizes with its own batch, else evaluation."""
        self.training = mode
        if self.network is not None:
            self.network.train(self.norm.own_batch)
        return self

    @torch.no_grad()
    def forward(self, x_N: Tensor) -> Tensor:
        """The teacher's output, Eq. (7), without gradient.

        Args:
            x_N: Images, first axis N.
        """
        if self.network is None:
            raise UserError(
                f"scheme {self.scheme.title!r} has no teacher network; use Teacher.pair, which takes the "
                f"student's own pass."
            )
        if not self.norm.shuffle:
            y_N: Tensor = self.network(x_N)
            if self.norm.statistics == "collect":
                share_statistics(self.network)
            return y_N
        devices = self.devices * distributed.workers()
        permutation = self._permutation(len(x_N) * distributed.workers())
        shuffled = self.network(distributed.exchange_rows(x_N, permutation, devices))
        return distributed.exchange_rows(shuffled, torch.argsort(permutation), devices)

    def _permutation(self, rows: int) -> Tensor:
        """A permutation that depends on the seed and on how many passes there have been, alike on all workers."""
        self.passes.add_(1)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + int(self.passes))
        return torch.randperm(rows, generator=generator)

    @torch.no_grad()
    def update(self, student: nn.Module, momentum: float | None = None) -> None:
        """Moves the teacher towards its student: Eq. (1), and Eq. (9) under EMAN.

        Args:
            student: The network given at construction (or its DDP wrapper), or another of the same structure.
            momentum: m of this step where it follows a schedule (BYOL); otherwise the one given at construction.
        """
        if self.network is None:
            return
        if _unwrap(student) is not self._source[0]:
            self._pair_tensors(_unwrap(student))
        momentum = self.momentum if momentum is None else momentum
        eman_momentum = momentum if self.eman_momentum is None else self.eman_momentum
        averaged = list(self._averaged)
        if eman_momentum == momentum:
            averaged += self._statistics
        elif self._statistics:
            _lerp(self._statistics, 1 - eman_momentum)
        _lerp(averaged, 1 - momentum)
        if self._copied:
            torch._foreach_copy_(*_tensors(self._copied))

    def pair(
        self,
        student: Callable[..., list[Tensor]],
        student_inputs: Sequence[Tensor],
        teacher_inputs: Sequence[Tensor],
        between: Callable[[], None] | None = None,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Both networks' outputs for one step.

        Args:
            student: Takes several inputs and gives a list of outputs (one DDP forward).
            student_inputs: What the student sees, each with first axis N.
            teacher_inputs: What the teacher sees.
            between: Called after the student's pass and before the teacher's, where there is one (MoCo moves its
                teacher there).

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
        """What :meth:`pair` gives, in parts: the student sees one after the other, each when it is asked for.

        A teacher with a network of its own sees the whole batch at once, after the student's pass over the first part:
        without a gradient that takes little memory, and its batch statistics and permutations are the batch's.

        Args:
            student: As in :meth:`pair`.
            student_inputs: As there, the whole batch.
            teacher_inputs: As there, the whole batch.
            between: As there; called once, after the student's pass over the first part.
            split: Gives the parts of an input or output of the whole batch.
        """
        parts_S = list(zip(*map(split, student_inputs), strict=True))
        if self.joint:  # one pass over everything, so that student and teacher share their batch statistics
            parts_T = list(zip(*map(split, teacher_inputs), strict=True))
            for inputs_S, inputs_T in zip(parts_S, parts_T, strict=True):
                pieces = [*inputs_S, *inputs_T]
                outputs = student(torch.cat(pieces))[0].split([len(piece) for piece in pieces])
                if between is not None:
                    between()
                    between = None
                cut = len(inputs_S)
                yield list(outputs[:cut]), [output.detach() for output in outputs[cut:]]
            return
        outputs_S = student(*parts_S[0])
        if between is not None:
            between()
        outputs_T = list(zip(*map(split, self._all(teacher_inputs)), strict=True))
        yield outputs_S, list(outputs_T[0])
        for inputs_S, part_T in zip(parts_S[1:], outputs_T[1:], strict=True):
            yield student(*inputs_S), list(part_T)

    def _all(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        if self.norm.own_batch or self.norm.statistics == "collect":
            return [self(x) for x in inputs]
        together: Tensor = self(torch.cat(list(inputs)))  # an affine map: an image's batch mates don't matter
        return list(together.split([len(x) for x in inputs]))


def _momentum(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise UserError(f"{name} is {value}; it must lie between 0 and 1.")
    return value


def _unwrap(module: nn.Module) -> nn.Module:
    return module.module if isinstance(module, DistributedDataParallel) else module


def _collector(weight: float) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    """A forward hook for Eq. (4) on a layer's own inputs. It runs after the layer has normalized, so that an output
    depends on the statistics up to the previous iteration (Section 5.4).
    """

    def collect(layer: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        assert isinstance(layer, nn.modules.batchnorm._BatchNorm)
        assert layer.running_mean is not None and layer.running_var is not None
        mean_C, var_C = batch_statistics(layer, inputs[0])
        layer.running_mean.lerp_(mean_C, weight)
        layer.running_var.lerp_(var_C, weight)

    return collect


def _tensors(places: list[tuple[_Place, _Place]]) -> tuple[list[Tensor], list[Tensor]]:
    mine = [holder[name] for (holder, name), _ in places]
    theirs = [holder[name] for _, (holder, name) in places]
    return mine, theirs


def _lerp(places: list[tuple[_Place, _Place]], weight: float) -> None:
    mine, theirs = _tensors(places)
    torch._foreach_lerp_(mine, theirs, weight)
