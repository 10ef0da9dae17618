"""The scores that chose a mask, whole, for those who want to keep them."""

from typing import Final

import torch
from torch import Tensor

PRECISE: Final = 0.99
"""Share of a matrix's scores that float16 must hold with its full eleven bits to be taken."""


def keepable(scores: Tensor, *, transposed: bool) -> Tensor:
    """A matrix's scores as they are kept: in the checkpoint's orientation, on the CPU, in float16 where that fits.

    scores: (out, in), finite, not negative. float16 fits where no score is too large for it and at most one in
    a hundred is too small for its normal numbers (6.1e-5; such scores keep an error of 3e-8); float32 elsewhere.
    """
    kept = (scores.T if transposed else scores).float()
    half = torch.finfo(torch.float16)
    small = int(((kept > 0) & (kept < half.tiny)).sum())
    if float(kept.max()) <= half.max and small <= (1 - PRECISE) * kept.numel():
        kept = kept.half()
    return kept.contiguous().cpu()
