"""Autocast for a run's precision, in training and evaluation alike."""

import torch

#: Autocast's type for each precision; float32 and float64 do not use autocast.
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the autocast context of a precision, disabled for float32 and float64."""
    kind = _AUTOCAST.get(precision)
    return torch.autocast(device.type, kind, enabled=kind is not None)
