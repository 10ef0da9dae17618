"""Memory that was freed goes back to the system."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from worker.pruning.runtime import memory

MIB = 2**20


def anonymous() -> int:
    lines = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


HOLED = """
import torch
from tests.worker.pruning.runtime.test_memory import MIB, anonymous
from worker.pruning.runtime import memory

freed = torch.ones(30 * MIB, dtype=torch.uint8)
del freed  # a freed mapping of up to 32 MiB raises the size below which the heap is used
tensors = [torch.ones(16 * MIB, dtype=torch.uint8) for _ in range(80)]
kept = tensors[1::2]
before = anonymous()
tensors.clear()
holes = before - anonymous()
memory.trim()
print(holes // MIB, (before - anonymous()) // MIB)
"""
GROWING = """
import torch
from tests.worker.pruning.runtime.test_memory import MIB, anonymous
from worker.pruning.runtime import memory

memory.map_large()
kept, before = [], anonymous()
for _ in range(100):  # blocks of several shapes, passes through each, and something small that stays of it
    block = [torch.ones(size * MIB, dtype=torch.uint8) for size in (5, 20, 9, 30)]
    for size in (12, 25, 6):
        with memory.reusing():
            kept.append(torch.ones(size * MIB, dtype=torch.uint8)[:1000].clone())
    kept.append(torch.ones(1000))
    del block
    memory.trim()
print((anonymous() - before) // MIB)
"""
FAULTING = """
import resource
import torch
from contextlib import nullcontext
from tests.worker.pruning.runtime.test_memory import MIB
from worker.pruning.runtime import memory

def faults(around):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        with around():
            a, b = (torch.ones(size * MIB, dtype=torch.uint8) for size in (24, 8))
            del a, b
        memory.trim()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

memory.map_large()
print(faults(nullcontext), faults(memory.reusing))
"""


def figures(program: str) -> tuple[int, ...]:
    """What it prints, in a process of its own: where memory comes from hangs on all that was taken and freed
    before, and what is asked of the library is for good."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return tuple(map(int, done.stdout.split()))


@pytest.mark.slow
def test_holes_between_tensors_are_given_back() -> None:
    """In a process of its own."""
    kept_by_the_library, given_back = figures(HOLED)
    assert kept_by_the_library < 32
    assert given_back > 500


@pytest.mark.slow
def test_large_tensors_leave_no_holes_and_passes_reuse_their_places() -> None:
    """Each in a process of its own."""
    (grown,), (mapped, reused) = figures(GROWING), figures(FAULTING)
    assert grown * MIB < memory.KEPT + 20 * MIB
    assert reused < mapped / 5


def test_who_did_not_ask_for_mapping_keeps_the_library_s_own_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_function", lambda *_: pytest.fail("the threshold was touched"))
    with memory.reusing():
        pass
