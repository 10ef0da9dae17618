"""Memory that was freed goes back to the system."""

import os
import subprocess
import sys
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


GROWING = """
import torch
from tests.worker.pruning.test_heap import MIB, anonymous
from worker.pruning import heap

heap.map_large()
kept, before = [], anonymous()
for _ in range(40):  # blocks of several shapes, and something small that stays of each
    block = [torch.ones(size * MIB, dtype=torch.uint8) for size in (5, 20, 9, 30)]
    kept.append(torch.ones(1000))
    del block
print((anonymous() - before) // MIB)
"""


def test_large_tensors_leave_no_holes() -> None:
    """In a process of its own: what it asks of the library is for good."""
    said = subprocess.run([sys.executable, "-c", GROWING], capture_output=True, text=True, check=True)
    assert int(said.stdout) < 20
