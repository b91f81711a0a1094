"""Networks of timm and torchvision by name, without their classifiers and with random weights.

Shapes: B images, A channels of an image, H by W pixels, D features.
"""

from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Any

from torch import nn

from eman.platform.errors import UserError

#: Classes of a torchvision network as it is built, by which its classifier is found.
_CLASSES = 1000


def has(library: str, name: str) -> bool:
    """Return whether the library has a network of that name."""
    return name in names(library)


def check(library: str, name: str) -> None:
    """Raise :class:`UserError` unless the library is installed and has a network of that name."""
    if not has(library, name):
        from difflib import get_close_matches

        near = get_close_matches(name.lower(), names(library), n=5, cutoff=0.5)
        hint = f"; the closest names are {', '.join(near)}" if near else ""
        raise UserError(f"backbone is '{library}:{name}', and {library} has no network {name!r}{hint}.")


@lru_cache
def names(library: str) -> tuple[str, ...]:
    """Return the names of a library's classification networks; raise :class:`UserError` if it is not installed."""
    try:
        models: Any = import_module(f"{library}.models")
    except ImportError as error:
        raise UserError(
            f"backbone is '{library}:...', and {library} cannot be imported ({error}); install it "
            f"(`pip install {library}`), or give another backbone."
        ) from error
    return tuple(models.list_models(module=models) if library == "torchvision" else models.list_models())


def _of_timm(name: str, small: str | None, channels: int, image_size: int) -> nn.Module:
    from timm.models import create_model, get_pretrained_cfg

    about = get_pretrained_cfg(name)
    sized: dict[str, Any] = {"img_size": image_size} if about is not None and about.fixed_input_size else {}
    network: nn.Module = create_model(name, pretrained=False, num_classes=0, in_chans=channels, **sized)
    if small:
        _make_stem_small(network, small, channels)
    return network


def _of_torchvision(name: str, small: str | None, channels: int, image_size: int) -> nn.Module:
    from torchvision.models import get_model

    sized = {"image_size": image_size} if name.startswith("vit_") else {}
    network: nn.Module = get_model(name, weights=None, **sized)
    _remove_classifier(network, f"torchvision:{name}")
    _switch_off_stochastic_depth(network)
    if small:
        _make_stem_small(network, small, channels)
    elif channels != 3:
        _take_channels(network, channels)
    return network


#: From a name, the whole name if the stem is to be small, A, and H = W, to a network with output ``(B, D)``.
BUILDERS: dict[str, Callable[[str, str | None, int, int], nn.Module]] = {
    "timm": _of_timm,
    "torchvision": _of_torchvision,
}


def _remove_classifier(network: nn.Module, name: str) -> None:
    """Replace the last layer, a linear one with an output per class of ImageNet, in place."""
    linear = [place for place, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    last = network.get_submodule(linear[-1]) if linear else None
    if not isinstance(last, nn.Linear) or last.out_features != _CLASSES:
        raise UserError(f"backbone {name!r} does not end in a linear classifier, which could be removed; give another.")
    _replace(network, linear[-1], nn.Identity())


def _switch_off_stochastic_depth(network: nn.Module) -> None:
    """Keep every path and unit in training, as timm's networks do by default."""
    from torchvision.ops import StochasticDepth

    for layer in network.modules():
        if isinstance(layer, StochasticDepth | nn.Dropout):
            layer.p = 0.0


def _make_stem_small(network: nn.Module, name: str, channels: int) -> None:
    """Replace the first convolution by one of 3x3 and stride 1, and remove the pooling that follows, in place."""
    first, pooling = getattr(network, "conv1", None), getattr(network, "maxpool", None)
    if not isinstance(first, nn.Conv2d) or pooling is None:
        raise UserError(f"backbone {name!r} has no ResNet's stem (conv1, maxpool); leave -small out.")
    stem = nn.Conv2d(channels, first.out_channels, 3, 1, 1, bias=first.bias is not None)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    _replace(network, "conv1", stem)
    _replace(network, "maxpool", nn.Identity())


def _take_channels(network: nn.Module, channels: int) -> None:
    """Replace the first convolution by one for images of ``channels`` channels, in place."""
    old: Any
    place, old = next((place, layer) for place, layer in network.named_modules() if isinstance(layer, nn.Conv2d))
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,
        old.stride,
        old.padding,
        bias=old.bias is not None,
    )
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    _replace(network, place, new)


def _replace(network: nn.Module, place: str, layer: nn.Module) -> None:
    parent, _, name = place.rpartition(".")
    setattr(network.get_submodule(parent), name, layer)
