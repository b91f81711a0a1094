"""Build a run's student, lay out its memory, and explain compiler errors.

Shapes: N images of this worker's batch.
"""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from eman.platform import checkpoint
from eman.platform.errors import UserError
from eman.platform.workspace import Workspace
from eman.trainers.backbones.registry import backbone_named
from eman.trainers.backbones.state import load_backbone, recompute_blocks
from eman.trainers.norm.convert import convert_norm
from eman.trainers.norm.device_bn import in_one_pass, prefers_channels_last
from eman.trainers.precision import is_half
from eman.trainers.spec.run import RunSpec


class OneForward(nn.Module):
    """Several passes of one network in one call, so that DDP sees one forward pass per step."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        """Return the output of each input."""
        return in_one_pass(self.network, inputs)


def build_student(
    spec: RunSpec, workspace: Workspace, shape: tuple[int, int, int], classes: int, devices: int
) -> nn.Sequential:
    """Build a run's student on the CPU, with its initial weights.

    Args:
        spec: The run.
        workspace: Location of the run that it starts from, if any.
        shape: Channels, height and width of an image.
        classes: Classes of the data set.
        devices: Devices that this worker hosts.

    Raises:
        UserError: The run that it starts from is missing or has another backbone.
    """
    backbone = backbone_named(spec.network.backbone)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        modules = OrderedDict(backbone=backbone.network(*shape[:2]))
        modules |= spec.entry.parts().heads(spec.method, backbone.measures(*shape[:2]).features, classes)
        student = nn.Sequential(modules)
    if spec.network.init is not None:
        path = workspace.run_folder(spec.network.init.key) / "last.pt"
        saved = checkpoint.load(path, spec.network.init.key, fields=["student"])
        load_backbone(student[0], saved["student"], spec.network.backbone, str(path))
    if spec.execution.recompute:
        recompute_blocks(student[0])
    convert_norm(
        student,
        spec.norm.student_norm,
        devices=devices,
        proxy_momentum=spec.norm.student_proxy_momentum,
        device_statistics=spec.norm.device_statistics,
    )
    return student


def memory_format(spec: RunSpec, student: nn.Module, device: torch.device) -> torch.memory_format:
    """Return the memory format for a run's networks: channels-last if asked for or faster."""
    chosen = spec.execution.channels_last
    if chosen is None and device.type == "cpu":
        chosen = not spec.execution.compile and prefers_channels_last(student)
    elif chosen is None:
        chosen = is_half(spec.network.precision)  # the format of a GPU's matrix units
    return torch.channels_last if chosen else torch.preserve_format


@torch.no_grad()
def lay_out(network: nn.Module, layout: torch.memory_format) -> None:
    """Store convolution weights in a memory format, which their outputs inherit.

    ``Module.to`` skips weights with one input channel, which satisfy both formats; the first layer's output would then
    have the wrong one.
    """
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = torch.empty_like(parameter, memory_format=layout).copy_(parameter)


@contextmanager
def compiler_errors() -> Iterator[None]:
    """Turn errors of PyTorch's compiler into :class:`UserError`."""
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
