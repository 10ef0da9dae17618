"""What a processor may make of fast numerics, under every set of instructions that oneDNN can be kept to.

A limit only takes away: a processor without AMX multiplies in float32 under all of them. So there is one more,
under which products are rounded as AMX rounds them.

Slow: oneDNN reads its limit once, so each limit takes a process.
"""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from benchmarks.bfloat16 import amx
from secateur.spec.job import Numerics
from secateur.spec.method import AdmmSettings, Scope
from secateur.spec.sparsity import Pattern
from tests.specs import make_method
from tests.worker.pruning.methods.oracles import solve_with
from worker.pruning.methods.masks import Selection
from worker.pruning.runtime.numerics import torch_settings

pytestmark = pytest.mark.slow

LIMITS = ("AVX2", "AVX512_CORE", "AVX512_CORE_BF16", "AVX512_CORE_AMX", "rounding")
SEARCHING = ("admm", "copal+admm:searched")
AGREEMENT = 0.985
"""Least part of a mask that a search with rounded products finds as the exact one does."""
ERROR = 0.005
"""How far the layer's error may be from that of the exact search."""

Found = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def found() -> Found:
    """By limit."""
    command = [sys.executable, "-m", "tests.worker.pruning.methods.fast_and_exact", *LIMITS]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    said = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
    return {line["limit"]: line for line in map(json.loads, said.splitlines())}


@pytest.mark.parametrize("limit", LIMITS)
def test_only_the_search_for_a_mask_feels_fast_numerics(limit: str, found: Found) -> None:
    for solver, cost in found[limit]["solvers"].items():
        if solver in SEARCHING:
            assert cost["mask"] >= AGREEMENT
            assert abs(cost["error"]) <= ERROR
        else:
            assert (cost["mask"], cost["error"]) == (1.0, 0.0), solver


def test_rounding_does_round(found: Found) -> None:
    assert all(found["rounding"]["solvers"][solver]["mask"] < 1 for solver in SEARCHING)


def test_exact_numerics_give_the_same_bytes_under_every_limit(found: Found) -> None:
    digests = [
        {solver: cost["exact_sha256"] for solver, cost in child["solvers"].items()} for child in found.values()
    ]
    assert all(each == digests[0] for each in digests)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gram_is_exact_whatever_its_inputs_are_read_in(limit: str, dtype: str, found: Found) -> None:
    assert found[limit]["grams"][dtype] < 2e-6


def test_forward_passes_are_in_float32_where_bfloat16_is_not_to_be_used(found: Found) -> None:
    assert found["AVX2"]["native_dtype"] == "float32"


@pytest.mark.parametrize("seed", range(3))
def test_without_correlations_only_neighbours_of_the_threshold_change_places(seed: int) -> None:
    """Under an identity Gram the mask is that of the magnitudes, of which bfloat16 tells those apart that differ
    by more than 2⁻⁸."""
    torch.manual_seed(seed)
    dense = torch.randn(64, 256)
    method = make_method("admm", admm=AdmmSettings(damping=0.0))  # as in the exact test of the same
    selection = Selection(Pattern(), Scope.matrix, dense.numel() // 2)
    with amx(), torch_settings(1, Numerics.fast):
        found = solve_with(method, dense, torch.eye(256), selection).mask
    changed = dense.abs()[found != selection.mask(dense.abs())]
    threshold = float(dense.abs().flatten().kthvalue(selection.zeros).values)
    assert changed.numel() <= 0.002 * dense.numel()
    assert bool(((changed / threshold - 1).abs() < 2**-8).all())
