"""Memory that was freed goes back to the system."""

import os
from pathlib import Path

import torch

from worker.pruning import heap

MIB = 2**20


def anonymous() -> int:
    lines = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def test_holes_between_tensors_are_given_back() -> None:
    freed = torch.ones(30 * MIB, dtype=torch.uint8)
    del freed  # a freed mapping of up to 32 MiB raises the size below which the heap is used
    tensors = [torch.ones(16 * MIB, dtype=torch.uint8) for _ in range(32)]
    kept = tensors[1::2]
    before = anonymous()
    tensors.clear()
    assert anonymous() > before - 32 * MIB  # in holes, which the library keeps
    heap.trim()
    assert anonymous() < before - 200 * MIB
    assert len(kept) == 16
