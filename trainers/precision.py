"""Autocast by a run's precision: the same when it is trained and when it is evaluated."""

import torch

#: What autocast computes in; float32 and float64 do without it.
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which a network of this precision computes."""
    kind = _AUTOCAST.get(precision)
    return torch.autocast(device.type, kind, enabled=kind is not None)
