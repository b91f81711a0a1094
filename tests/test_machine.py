"""What is known about this machine."""

import torch

from eman.platform.machine import fast_bf16


def test_bfloat16_is_known_without_torch() -> None:
    if not torch.cuda.is_available():
        assert fast_bf16() == torch.ops.mkldnn._is_mkldnn_bf16_supported()
