"""A pretend CUDA device: a torch for the CPU believes in `cuda:0` (and `cuda:1`, …), and everything is counted.

What CUDA refuses is refused: tensors of two devices in one operation, numpy of a device's tensor, more memory than
there is. What costs time on a GPU is counted where it happens: launches, synchronisations, transfers and their
bytes, casts on the host, floating point operations by precision, bytes that are alive.

    with pretend_gpu(devices=2) as counts:
        x = torch.ones(4, 4, device="cuda:1")
        float(x.sum())
    counts.total("synchronisations")  # 1

With `shapes=True` no numbers are computed: tensors are meta tensors inside, so that a whole job runs at the shapes
of a model of any size. What the host then reads is made up (see `shapes.py`).

Where it differs from a real one: autocast follows the CPU's lists of operations; kernels inside one operation of
torch are one launch; a kernel's result has the CPU's bits.
"""

from tests.pretend_gpu.counts import Counts
from tests.pretend_gpu.device import pretend_gpu

__all__ = ["Counts", "pretend_gpu"]
