"""What the settings of a job switch, and where."""

import torch

from worker.pruning.runtime.numerics import plain_attention


def fused() -> bool:
    return torch.backends.cuda.flash_sdp_enabled() or torch.backends.cuda.mem_efficient_sdp_enabled()


def test_only_a_gpu_is_kept_from_fused_attention() -> None:
    assert fused()
    with plain_attention(torch.device("cuda")):
        assert not fused()
        assert torch.backends.cuda.math_sdp_enabled()
    with plain_attention(torch.device("cpu")):
        assert fused()
    assert fused()
