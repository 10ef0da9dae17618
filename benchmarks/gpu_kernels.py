"""The kernels and transfers that a job is made of, at an 8B Llama's sizes."""

import time
from collections.abc import Callable

import numpy
import torch
from torch import Tensor

from benchmarks.gpu_bench import Bench
from secateur.spec.method import Scope
from secateur.spec.method.settings import SparseGptSettings
from secateur.spec.sparsity import Pattern
from worker.pruning.allocation.curves import loss_curve
from worker.pruning.methods.lowest import without_lowest
from worker.pruning.methods.masks import Selection
from worker.pruning.methods.sparsegpt import factorise, solve_sparsegpt
from worker.pruning.report.sensitivity import summarise
from worker.pruning.runtime.numerics import products
from worker.pruning.state.digests import mask_sha256, weights_sha256
from worker.pruning.state.file import pack, unpack


def kernels(bench: Bench) -> None:
    rows, width = (512, 256) if bench.small else (14336, 4096)
    scores = torch.rand(rows, width, device=bench.device)
    _selections(bench, scores)
    _passes(bench, scores)
    _transfers(bench, width)
    _products(bench)
    for size in (256,) if bench.small else (4096, 14336):
        _factorisations(bench, size, width)


def _timed(bench: Bench, what: str, call: Callable[[], object], times: int = 1) -> None:
    bench.say("kernels", what=what, ms=round(1e3 * bench.seconds(call, times), 2))


def _selections(bench: Bench, scores: Tensor) -> None:
    flat, half = scores.view(1, -1), scores.numel() // 2
    kept = without_lowest(flat, half)
    threshold = flat.sort().values[0, half - 1]
    right = int(kept.sum()) == flat.numel() - half and bool((flat[kept] >= threshold).all())
    bench.say("kernels", what="half of a matrix kept", right=right)
    _timed(bench, "without_lowest, a matrix", lambda: without_lowest(flat, half), 3)
    _timed(bench, "without_lowest, by row", lambda: without_lowest(scores, scores.shape[1] // 2), 3)
    _timed(bench, "torch.sort, a matrix", lambda: flat.sort(), 2)
    host = scores.cpu().numpy().ravel()
    began = time.perf_counter()
    numpy.sort(host)
    bench.say("kernels", what="numpy.sort, the host", ms=round(1e3 * (time.perf_counter() - began), 1))


def _passes(bench: Bench, scores: Tensor) -> None:
    """What a matrix's record takes."""
    written = scores.bfloat16().cpu()
    _timed(bench, "summary of scores", lambda: summarise("matrix", scores))
    _timed(bench, "curve of losses", lambda: loss_curve(scores))
    _timed(bench, "digests of mask and weights", lambda: (mask_sha256(written), weights_sha256(written)))


def _transfers(bench: Bench, width: int) -> None:
    batch = torch.randn(2, 32 if bench.small else 2048, width)
    back, there, size = torch.empty_like(batch), batch.to(bench.device), batch.nbytes / 1e9
    up, down = bench.seconds(lambda: batch.to(bench.device)), bench.seconds(lambda: back.copy_(there))
    bench.say("kernels", what="pageable batch", up_gbs=round(size / up, 1), down_gbs=round(size / down, 1))
    half = batch.bfloat16()
    _timed(bench, "bfloat16 to the device, cast there", lambda: half.to(bench.device).float(), 3)
    if bench.is_gpu:
        pinned, target = batch.pin_memory(), back.pin_memory()
        up = bench.seconds(lambda: pinned.to(bench.device, non_blocking=True))
        down = bench.seconds(lambda: target.copy_(there, non_blocking=True))
        bench.say("kernels", what="pinned batch", up_gbs=round(size / up, 1), down_gbs=round(size / down, 1))


def _products(bench: Bench) -> None:
    side = 512 if bench.small else 8192
    one = torch.randn(side, side, device=bench.device)
    half = one.bfloat16()
    for name, factor, precision in (
        ("float32", one, "highest"),
        ("medium", one, "medium"),
        ("bf16", half, "highest"),
    ):
        with products(precision):
            seconds = bench.seconds(lambda factor=factor: factor @ factor)  # type: ignore[misc]
        bench.say("kernels", what=f"product, {name}", tflops=round(2 * side**3 / seconds / 1e12, 2))


def _factorisations(bench: Bench, size: int, width: int) -> None:
    inputs = torch.randn(size + 512, size, device=bench.device)
    gram = inputs.T @ inputs / len(inputs)
    gram.diagonal().add_(0.05)
    root = torch.linalg.cholesky_ex(gram)[0]
    _timed(bench, f"cholesky_ex {size}", lambda: torch.linalg.cholesky_ex(gram))
    _timed(bench, f"cholesky_inverse {size}", lambda: torch.cholesky_inverse(root))
    _timed(bench, f"eigh {size}", lambda: torch.linalg.eigh(gram))
    packed = pack(gram, gram.diagonal())
    _timed(bench, f"pack a Gram {size}", lambda: pack(gram, gram.diagonal()))
    _timed(bench, f"unpack a Gram {size}", lambda: unpack(packed, gram.diagonal()))
    weight, settings = torch.randn(width, size, device=bench.device), SparseGptSettings()
    selection = Selection(Pattern(), Scope.matrix, weight.numel() // 2)
    factor = factorise(gram, settings)
    _timed(bench, f"SparseGPT {width} x {size}", lambda: solve_sparsegpt(weight, factor, selection, settings))
