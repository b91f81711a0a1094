"""One run: its data, networks, optimizer and step, for all methods, on one worker or many.

Shapes: N images of this worker's batch, A channels, H by W pixels.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from eman.platform import checkpoint
from eman.platform.errors import UserError
from eman.platform.workspace import Workspace
from eman.trainers import distributed, optim
from eman.trainers.backbones.registry import backbone_named
from eman.trainers.backbones.state import load_backbone, recompute_blocks
from eman.trainers.data import catalog as data
from eman.trainers.data import label_sets
from eman.trainers.data.loader import Loader, Recipe
from eman.trainers.data.order import Stream
from eman.trainers.data.splits import Split, joined
from eman.trainers.norm.convert import convert_norm
from eman.trainers.norm.device_bn import device_norms, frozen_statistics, in_one_pass, prefers_channels_last
from eman.trainers.norm.statistics import batch_norms, reset_statistics, share_statistics
from eman.trainers.norm.teacher import Teacher
from eman.trainers.precision import autocast
from eman.trainers.spec.labels import scheme_of
from eman.trainers.spec.method import LabelledSection, TeacherSection
from eman.trainers.spec.run import RunSpec
from eman.trainers.views import transforms
from eman.trainers.views import views as augment
from eman.trainers.views.draws import Draws


@contextmanager
def _explained() -> Iterator[None]:
    """Turns what the compiler says into a :class:`UserError`."""
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import CppCompileError, InvalidCxxCompiler

    try:
        yield
    except (TorchDynamoException, CppCompileError, InvalidCxxCompiler) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"compile is true, and the networks cannot be compiled ({reason}); install a C++ compiler such as g++ if "
            f"it is missing, or give compile=false, which is the same run."
        ) from error


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean(0)


@torch.no_grad()
def lay_out(network: nn.Module, memory_format: torch.memory_format) -> None:
    """Puts the weights of convolutions into a layout, which their outputs then have. ``Module.to`` would leave those of
    one channel as they are, since they have both layouts, and the first output would decide for the wrong one.
    """
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = torch.empty_like(parameter, memory_format=memory_format).copy_(parameter)


class _Views(nn.Module):
    """Several passes of one network in one call, so that DDP sees one forward a step."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        return in_one_pass(self.network, inputs)


class Training:
    """Everything that one run consists of, and its steps.

    Attributes:
        student: ``nn.Sequential`` of ``backbone`` and the method's heads.
        teacher: Its teacher, or ``None`` where the method has none.
        step: Steps taken so far.

    Raises:
        UserError: A name in the specification is unknown, the workers do not divide the devices, the parts of a batch
            do not divide a worker's, or the run to start from is not there.
    """

    def __init__(self, spec: RunSpec, workspace: Workspace) -> None:
        self.spec, self.workspace, self.method = spec, workspace, spec.entry
        self.parts_of_method = self.method.parts()
        workers = distributed.workers()
        if spec.norm.devices % workers:
            raise UserError(f"{workers} workers do not divide {spec.norm.devices} devices; give a divisor of those.")
        self.local, self.parts = spec.norm.devices // workers, spec.execution.accumulate or 1
        if self.local % self.parts:
            raise UserError(
                f"accumulate is {self.parts}, and each of {workers} workers hosts {self.local} devices, none of which "
                f"can be split; give a divisor of {self.local}, or take fewer workers."
            )
        self.device = distributed.device()
        self.dtype = torch.float64 if spec.network.precision == "float64" else torch.float32
        self.dataset = data.load(spec.data.dataset, workspace, spec.data.image_size)
        self.train, self.held_out = label_sets.parts(self.dataset, spec.data.images, spec.data.held_out)
        self.streams = self._streams()
        self.feeds: dict[str, Loader] = {}
        first = self.streams[self.method.streams[-1]]
        self.steps_per_epoch = max(1, len(first.split) // first.batch)
        self.steps = self.steps_per_epoch * spec.optim.epochs
        self.step = 0
        self._build()

    def _streams(self) -> dict[str, Stream]:
        spec = self.spec
        splits = {"unlabelled": joined(self.train, self.dataset.unlabelled)}
        sizes = spec.method.batches()
        self.labelled: Tensor | None = None
        if isinstance(spec.method, LabelledSection):
            self.labelled = (
                label_sets.label_set(self.train.labels, spec.method.label_fraction, spec.method.label_set)
                if spec.method.label_index is None
                else label_sets.indexed(spec.data.dataset, spec.method.label_index, self.train, self.workspace)
            )
            rest = torch.ones(len(self.train), dtype=torch.bool)
            rest[self.labelled] = False
            splits = {
                "labelled": self.train.take(self.labelled),
                "unlabelled": joined(self.train.take(rest.nonzero()[:, 0]), self.dataset.unlabelled),
            }  # "the rest" (Section 5.1)
        for name in self.method.streams:
            if len(splits[name]) < sizes[name] and name == "unlabelled":
                raise UserError(
                    f"batch is {sizes[name]}, and there are {len(splits[name])} {name} images; give a smaller "
                    f"batch or more images."
                )
        return {
            name: Stream(splits[name], sizes[name], spec.seed, number, spec.norm.devices)
            for number, name in enumerate(self.method.streams)
        }

    def _build(self) -> None:
        spec, scheme = self.spec, scheme_of(self.spec)
        backbone = backbone_named(spec.network.backbone)
        channels = self.train.shape[0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(spec.seed)
            modules = OrderedDict(backbone=backbone.build(channels))
            modules |= self.parts_of_method.heads(spec.method, backbone.features, len(self.dataset.classes))
            self.student = nn.Sequential(modules)
        if spec.network.init is not None:
            path = self.workspace.run_folder(spec.network.init.key) / "last.pt"
            saved = checkpoint.load(path, spec.network.init.key, fields=["student"])
            load_backbone(self.student[0], saved["student"], spec.network.backbone, path)
        if spec.execution.recompute:
            recompute_blocks(self.student[0])
        convert_norm(
            self.student,
            spec.norm.student_norm,
            devices=self.local,
            proxy_momentum=spec.norm.student_proxy_momentum,
            device_statistics=spec.norm.device_statistics,
        )
        self.student.to(self.device, self.dtype)
        faster = self.device.type == "cpu" and not spec.execution.compile and prefers_channels_last(self.student)
        self.memory_format = torch.channels_last if spec.execution.channels_last or faster else torch.preserve_format
        lay_out(self.student, self.memory_format)
        self.criterion = self.parts_of_method.criterion(
            spec.method, spec.norm.devices, torch.Generator().manual_seed(spec.seed)
        )
        self.criterion.to(self.device, self.dtype)
        self.optimizer = optim.optimizer(spec.optim, self.student)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=spec.network.precision == "fp16")
        self._passes = _Views(self.student)
        self._ddp: nn.Module = (
            DistributedDataParallel(self._passes, forward_sync_buffers=False)
            if distributed.workers() > 1
            else self._passes
        )
        self._initialize_statistics()
        self.base_momentum = spec.method.momentum if isinstance(spec.method, TeacherSection) else 0.0
        self.followed = self.parts_of_method.followed(self.student)
        self.teacher = (
            Teacher(self.followed, scheme, self.base_momentum, seed=spec.seed).to(self.device)
            if self.method.teacher
            else None
        )
        for layer in device_norms(self.student):  # the teacher, copied before, sees the whole batch at once
            layer.devices //= self.parts
        if spec.execution.compile:
            self.student.compile()
            if self.teacher is not None and self.teacher.network is not None:
                self.teacher.network.compile()

    @torch.no_grad()
    def _initialize_statistics(self) -> None:
        """Sets the running statistics by plain averages over some batches, so that short runs need not wait for the
        initial values, 0 and 1, to fade. It happens before the teacher is copied and alike for every scheme.
        """
        if not self.spec.norm.statistics_passes:
            return
        layers = list(batch_norms(self.student))
        momenta = [layer.momentum for layer in layers]
        reset_statistics(self.student)
        for layer in layers:
            layer.momentum = None
        for step in range(self.spec.norm.statistics_passes):
            inputs = self._inputs(self._views(step)[0], self.method.student)
            with self._autocast():
                self._passes(*inputs)
        share_statistics(self.student)
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum

    @contextmanager
    def _autocast(self) -> Iterator[None]:
        with autocast(self.device, self.spec.network.precision):
            yield

    def _views(self, step: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """This worker's views of a step's batch by name, each ``(N, A, H, W)``, and the labels of each stream."""
        spec = self.spec
        options = spec.method.view_options()
        batches, labels = {}, {}
        for name, stream in self.streams.items():
            images_PNAHW, index_N, epoch_N = self._batch(name, step)
            batches[name] = (images_PNAHW, epoch_N.to(self.device), stream.split.ids[index_N].to(self.device))
            labels[name] = stream.split.labels[index_N].to(self.device)
        views, seen = {}, dict.fromkeys(self.streams, 0)
        for number, (view, (name, change)) in enumerate(self.method.views.items()):
            images_PNAHW, epoch_N, ids_N = batches[name]
            cropped = self.streams[name].split.cropped
            x_NAHW = images_PNAHW[seen[name] if cropped else 0].to(self.device).float().div_(255)
            seen[name] += 1
            draws = Draws(spec.seed, epoch_N, ids_N, number)
            changed = augment.VIEWS[change](x_NAHW, draws, replace(options, cropped=cropped))
            views[view] = transforms.normalize(changed, self.dataset.mean, self.dataset.std).to(self.dtype)
        return views, labels

    def _batch(self, name: str, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """This worker's images of a stream's batch, uint8, ``(P, N, A, H, W)``: P crops, one for each view that is made
        of them, or the images as they are; and their places in the split and epochs, ``(N,)``.
        """
        stream = self.streams[name]
        mine = distributed.positions(stream.batch, self.spec.norm.devices)
        if isinstance(stream.split, Split):
            index_N, epoch_N = (x[mine] for x in stream.at(step))
            return stream.split.images[index_N].unsqueeze(0), index_N, epoch_N
        if name not in self.feeds:
            views = tuple(n for n, (source, _) in enumerate(self.method.views.values()) if source == name)
            recipe = Recipe(stream, mine, views, self.spec.seed, self.spec.method.crop_min)
            steps, settings = max(self.steps, self.spec.norm.statistics_passes), self.workspace.settings
            self.feeds[name] = Loader(recipe, steps, settings.most_corrupt, settings.loader_processes)
        return self.feeds[name].at(step)

    def close(self) -> None:
        """Stops the reading of images ahead."""
        for feed in self.feeds.values():
            feed.close()

    def _inputs(self, views: dict[str, Tensor], passes: tuple[tuple[str, ...], ...]) -> list[Tensor]:
        inputs = [torch.cat([views[name] for name in names]) if len(names) > 1 else views[names[0]] for names in passes]
        return [x.to(memory_format=self.memory_format) for x in inputs]

    def _split(self, x_N: Tensor) -> list[Tensor]:
        return distributed.split_devices(x_N, self.parts, self.local)

    def _outputs(self, views: dict[str, Tensor], momentum: float) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """The student's and the teacher's outputs for the parts of a batch, each when it is asked for."""
        method, teacher = self.method, self.teacher

        def between() -> None:
            if method.teacher_moves == "between":
                self._move_teacher(momentum)

        student_inputs = self._inputs(views, method.student)
        if teacher is not None:
            teacher_inputs = self._inputs(views, method.teacher)
            yield from teacher.pairs(self._ddp, student_inputs, teacher_inputs, between, self._split)
            return
        for number, inputs in enumerate(zip(*map(self._split, student_inputs), strict=True)):
            outputs_S = self._ddp(*inputs)
            if number == 0:
                between()
            yield outputs_S, []

    @contextmanager
    def _part(self, number: int) -> Iterator[None]:
        """Around a part's passes, forward and backward: the first part, which has device 0, moves the running
        statistics; the last sends the gradients.
        """
        with ExitStack() as stack:
            if self.spec.execution.compile:
                stack.enter_context(_explained())
            if number > 0:
                stack.enter_context(frozen_statistics(self.student))
            if number < self.parts - 1 and isinstance(self._ddp, DistributedDataParallel):
                stack.enter_context(self._ddp.no_sync())
            yield

    def train_step(self) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """One step; returns the loss, the method's other measures, and the student's first output."""
        spec, method = self.spec, self.method
        for group in self.optimizer.param_groups:
            group["lr"] = optim.learning_rate(spec.optim, self.step, self.steps_per_epoch)
        momentum = method.momentum(self.base_momentum, self.step, self.steps)
        views, labels = self._views(self.step)
        self.student.train()
        self.optimizer.zero_grad(set_to_none=True)
        outputs, parts = self._outputs(views, momentum), []
        for number in range(self.parts):
            with self._part(number):
                with self._autocast():
                    pair = next(outputs)
                outputs_S, outputs_T = ([y.to(self.dtype) for y in of_network] for of_network in pair)
                mine = {name: self._split(y)[number] for name, y in labels.items()}
                loss, measures = self.criterion(outputs_S, outputs_T, mine)
                self.scaler.scale(loss / self.parts).backward()
            parts.append((loss.detach(), measures, outputs_S[0].detach(), outputs_T))
        losses, measured, firsts, teachers = zip(*parts, strict=True)
        self.criterion.after_step(
            [distributed.join_devices(list(of_parts), self.local) for of_parts in zip(*teachers, strict=True)]
        )
        measures = {name: _mean([found[name] for found in measured]) for name in measured[0]} | self._move_student()
        if method.teacher_moves == "after":
            self._move_teacher(momentum)
        self.step += 1
        return _mean(losses), measures, torch.cat(firsts)

    def _move_teacher(self, momentum: float) -> None:
        """Eqs. (1) and (9). Workers learn device 0's statistics here, right after they have met for the gradients, if
        the teacher moves after the step: to meet once more in the middle of it would cost a wait.
        """
        share_statistics(self.student)
        if self.teacher is not None:
            self.teacher.update(self.followed, momentum)

    def _move_student(self) -> dict[str, Tensor]:
        """The optimizer's step. In half precision one with gradients that are not finite is left out, and counted; the
        schedules and the teacher go on, as after a step of rate 0.
        """
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if not self.scaler.is_enabled():
            return {}
        return {"skipped": torch.tensor(float(self.scaler.get_scale() < scale), device=self.device)}

    def momentum(self) -> float:
        """M of Eq. (1) at the latest step."""
        return self.method.momentum(self.base_momentum, max(self.step - 1, 0), self.steps)

    def share_teacher_statistics(self) -> None:
        """Gives worker 0 what a teacher that normalizes with its own batches has collected on all workers.

        Such statistics take no part in training, so it is enough before they are saved or measured.
        """
        if self.teacher is not None and self.teacher.network is not None:
            share_statistics(self.teacher.network)

    def state(self) -> dict[str, Any]:
        """All that is needed to continue as if nothing had happened. Randomness needs none: it is a function of the
        step.
        """
        return {
            "step": self.step,
            "spec": self.spec.flat(),
            "data": self.dataset.hash,
            "student": self.student.state_dict(),
            "teacher": self.teacher.state_dict() if self.teacher is not None else None,
            "criterion": self.criterion.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state`.

        Raises:
            UserError: The run was begun on other images.
        """
        self.dataset.must_be(state.get("data"), self.spec.key)
        self.step = state["step"]
        self.student.load_state_dict(state["student"])
        if self.teacher is not None:
            self.teacher.load_state_dict(state["teacher"])
        self.criterion.load_state_dict(state["criterion"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state.get("scaler"):  # absent before there was fp16
            self.scaler.load_state_dict(state["scaler"])

    def networks(self) -> dict[str, Any]:
        """Weights of both networks, for evaluation."""
        network = None if self.teacher is None else self.teacher.network
        return {
            "spec": self.spec.flat(),
            "step": self.step,
            "data": self.dataset.hash,
            "student": self.student.state_dict(),
            "teacher": None if network is None else network.state_dict(),
        }


def feature_std(output: Tensor) -> float:
    """A collapse detector: the standard deviation over images of the normalized output, times the root of its width.

    Near 1 for outputs spread evenly over the sphere, 0 when all images give the same output.
    """
    unit = torch.nn.functional.normalize(output.float(), dim=1)
    return float(unit.std(0).square().sum().sqrt()) if len(unit) > 1 else 0.0
