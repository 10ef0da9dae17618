"""What fast numerics cost every solver on this processor: a line of JSON for each set of instructions.

    python -m tests.worker.pruning.methods.fast_and_exact AVX2 AVX512_CORE_AMX … rounding

oneDNN reads its limit (ONEDNN_MAX_CPU_ISA) once, when it is first used: so every line is of a process of its own,
forked before that, which saves the imports. `rounding`: no limit, but products rounded as AMX rounds them.
"""

import json
import os
import sys
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from benchmarks.bfloat16 import amx
from secateur.spec.job import Numerics
from secateur.spec.method import Mask, Method, MethodName, WeightUpdate
from secateur.spec.sparsity import Pattern
from tests.specs import make_method
from tests.worker.pruning.methods.oracles import admm_damped, gram_of, output_error, solve_with
from worker.pruning.evaluation.losses import native_dtype
from worker.pruning.methods.masks import Selection, Solution
from worker.pruning.methods.registry import SOLVERS
from worker.pruning.runtime.numerics import products_of, torch_settings
from worker.pruning.state.digests import weights_sha256
from worker.pruning.state.moments import Accumulator

METHODS = [
    *(make_method(name) for name, row in SOLVERS.items() if not row.candidates),
    make_method(MethodName.wanda, WeightUpdate.admm),
    make_method(MethodName.copal, WeightUpdate.admm, Mask.searched),
]
ROWS, WIDTH = 96, 256


def solved(method: Method, dense: Tensor, gram: Tensor, numerics: Numerics) -> Solution:
    with torch_settings(1, numerics):
        return solve_with(method, dense, gram, Selection(Pattern(), method.comparison_group, dense.numel() // 2))


def cost(method: Method, dense: Tensor, gram: Tensor) -> dict[str, Any]:
    """mask: the share of its entries that agree. error: of fast relative to exact numerics, minus 1."""
    exact, fast = (solved(method, dense, gram, numerics) for numerics in (Numerics.exact, Numerics.fast))
    errors = [output_error(each.weight, dense, admm_damped(gram, 0.1)) for each in (fast, exact)]
    return {
        "mask": float((fast.mask == exact.mask).double().mean()),
        "error": errors[0] / errors[1] - 1,
        "exact_sha256": weights_sha256(exact.weight),
    }


def gram_errors(inputs: Tensor) -> dict[str, float]:
    """By the dtype that a layer reads its inputs in: how far their Gram is from that in float64."""
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        read = inputs.to(dtype)
        sums = Accumulator(inputs.shape[1], torch.device("cpu"))
        with torch_settings(1, Numerics.fast), products_of(dtype):
            sums.add(read.float())
        expected = read.double().T @ read.double() / len(read)
        difference = (sums.measured().gram.double() - expected).abs().max()
        found[str(dtype).removeprefix("torch.")] = float(difference / expected.diagonal().max())
    return found


def costs(limit: str) -> dict[str, Any]:
    if limit != "rounding":
        os.environ["ONEDNN_MAX_CPU_ISA"] = limit
    torch.manual_seed(0)
    dense, gram = torch.randn(ROWS, WIDTH), gram_of(4 * WIDTH, WIDTH)
    with amx() if limit == "rounding" else nullcontext():
        return {
            "limit": limit,
            "native_dtype": native_dtype(torch.device("cpu")),
            "grams": gram_errors(torch.randn(512, WIDTH)),
            "solvers": {method.solver: cost(method, dense, gram) for method in METHODS},
        }


def main() -> None:
    for limit in sys.argv[1:]:
        child = os.fork()
        if child == 0:
            print(json.dumps(costs(limit)), flush=True)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            sys.exit(f"{limit}: failed")


if __name__ == "__main__":
    main()
