"""Measure a backbone: build it without memory, and run it on images without content.

Shapes: B images, A channels, S by S pixels, D features.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from eman.platform.errors import UserError, first_line
from eman.trainers.backbones.measures import Measures
from eman.trainers.norm.kinds import kinds_of

#: From A and S to a network.
Build = Callable[[int, int], nn.Module]


def measure(name: str, build: Build, registered: int | None, channels: int, image_size: int) -> Measures:
    """Return the measures of a backbone for images ``(B, A, S, S)``.

    It is built on PyTorch's meta device, or on the CPU if its code needs numbers. ``registered`` is the number of
    features with which it was registered, if any.

    Raises:
        UserError: It cannot be built, or does not map such images to ``(B, D)``, or draws random numbers in training.
    """
    given = f"backbone {name!r} on images of {channels} x {image_size} x {image_size}"
    try:
        network, output = _run(name, build, channels, image_size, "meta")
    except UserError:
        raise
    except Exception:  # the network's own code may fail in any way
        try:
            network, output = _run(name, build, channels, image_size, "cpu")
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{given} fails ({type(error).__name__}: {first_line(error)}); give another image_size or backbone."
            ) from error
    if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UserError(f"{given} gives {shape} for 2 images, and must give features (2, D).")
    features = output.shape[1]
    if registered not in (None, features):
        raise UserError(
            f"{given} gives {features} features, and is registered with features={registered}; leave features out."
        )
    values = sum(value.numel() for value in network.state_dict().values())
    return Measures(features, values, kinds_of(network))


def _run(name: str, build: Build, channels: int, image_size: int, device: str) -> tuple[nn.Module, Any]:
    with torch.random.fork_rng(devices=[]), torch.device(device):
        network = build(channels, image_size)
        if not isinstance(network, nn.Module):
            raise UserError(f"build of backbone {name!r} returns {type(network).__name__}, not an nn.Module.")
        check_deterministic(network, name)
        with torch.no_grad():
            return network, network.train()(torch.zeros(2, channels, image_size, image_size))


def check_deterministic(network: nn.Module, name: str) -> None:
    """Raise :class:`UserError` if a network drops units or paths at random in training.

    All draws of a run are functions of (seed, epoch, sample, view), so that it resumes exactly; dropout's are not.
    """
    for place, layer in network.named_modules():
        kind = type(layer).__name__
        rate = getattr(layer, "p", getattr(layer, "drop_prob", 0.0))
        if ("Drop" in kind or kind == "StochasticDepth") and isinstance(rate, float | int) and rate > 0:
            raise UserError(
                f"backbone {name!r} has {kind} of rate {rate:g} at {place}, which makes a run depend on when it was "
                f"interrupted; build it with rate 0."
            )
