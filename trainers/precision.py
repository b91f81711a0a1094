"""A run's precision, in training and evaluation alike, and the algorithms of a GPU."""

import torch

#: Autocast's type for each precision; float32 and float64 do not use autocast.
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the autocast context of a precision, disabled for float32 and float64."""
    kind = _AUTOCAST.get(precision)
    return torch.autocast(device.type, kind, enabled=kind is not None)


def is_half(precision: str) -> bool:
    """Return whether a precision computes in 16 bits."""
    return precision in _AUTOCAST


def use_whole_float32() -> None:
    """Make float32 mean float32 on a GPU: PyTorch computes convolutions in TF32, whose products have 10 bits."""
    # Not by `fp32_precision`, which can be set by operation: `torch.export` then refuses to read `allow_tf32`.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def choose_algorithms(*, deterministic: bool) -> None:
    """Choose cuDNN's algorithms: those whose results repeat bit for bit, or those that it measures to be fastest."""
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic, not deterministic
