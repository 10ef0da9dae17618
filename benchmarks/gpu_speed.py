"""Where a job's time goes on the device: two blocks of an 8B Llama, each part by the clock."""

import contextlib
import functools
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.gpu_bench import Bench, job, make_texts, prune
from tests.tiny import make_tokenizer
from worker.pruning import prune_block as pruning
from worker.pruning import runner
from worker.pruning.allocation import survey
from worker.pruning.calibration.collect import BlockInputs
from worker.pruning.evaluation import r_matrix
from worker.pruning.methods import registry
from worker.pruning.model import block_runner

BLOCKS = 2
PARTS = (
    (r_matrix, "window_losses", "evaluate"),
    (survey, "_forward", "survey forward"),
    (survey, "_loss_gradients", "survey head"),
    (survey, "_backward", "survey backward"),
    (block_runner, "load_block", ". load a block"),
    (runner, "prune_block", "prune, all of it"),
    (BlockInputs, "collect", "measure inputs"),
    (pruning, "choose", "factorise"),
    (registry, "solve", "solve"),
    (pruning, "summaries_of", "summaries"),
    (pruning, "matrix_record", "records"),
    (pruning, "advance_through", "advance, and write"),
)
"""Functions that are timed, the device waited for on both sides; a dot is a part of other parts."""


def speed(bench: Bench, work: Path, methods: list[str], samples: int) -> None:
    """methods: a name, and an allocation behind an @."""
    folder = _model(bench, work / "model")
    texts = make_texts(work, 6000 if bench.small else 120_000)
    size = {"samples": 8, "length": 64} if bench.small else {"samples": samples, "length": 2048, "windows": 16}
    for method in methods:
        name, _, allocation = method.partition("@")
        sparsity = {"target": 0.5, **({"allocation": allocation} if allocation else {})}
        request = job(
            folder, texts, work / "work", str(bench.device), {"name": name}, sparsity, domains="a", **size
        )
        spent: dict[str, list[float]] = {}
        if bench.is_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(bench.device)
        began, load = time.perf_counter(), dict[str, Any]()
        with _measured(bench, spent), _busy(bench, load):
            prune(request)
        peak = torch.cuda.max_memory_allocated(bench.device) / 2**30 if bench.is_gpu else 0.0
        bench.say(
            "speed", method=method, seconds=round(time.perf_counter() - began, 1), gib=round(peak, 1), **load
        )
        for label, times in sorted(spent.items(), key=lambda item: -sum(item[1])):
            each = round(sum(times) / BLOCKS, 3)
            bench.say("speed", method=method, part=label, calls=len(times), seconds_a_block=each)


def _model(bench: Bench, folder: Path) -> Path:
    """Random weights of a trained model's size."""
    shape = {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8}
    if bench.small:
        shape = {"hidden_size": 128, "intermediate_size": 448, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(
        **shape, vocab_size=320 if bench.small else 128256, num_hidden_layers=BLOCKS, max_position_embeddings=8192
    )
    torch.manual_seed(0)
    with bench.device:
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.cpu().save_pretrained(folder)
    return make_tokenizer(folder)


@contextlib.contextmanager
def _measured(bench: Bench, spent: dict[str, list[float]]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for owner, name, label in PARTS:
            stack.enter_context(patch.object(owner, name, _timed(bench, getattr(owner, name), label, spent)))
        yield


def _timed(bench: Bench, plain: Any, label: str, spent: dict[str, list[float]]) -> Any:
    @functools.wraps(plain)
    def call(*args: Any, **kwargs: Any) -> Any:
        bench.wait()
        began = time.perf_counter()
        try:
            return plain(*args, **kwargs)
        finally:
            bench.wait()
            spent.setdefault(label, []).append(time.perf_counter() - began)

    return call


@contextlib.contextmanager
def _busy(bench: Bench, found: dict[str, Any]) -> Iterator[None]:
    """What part of the time any kernel ran: the rest is the host's or the bus's."""
    if not bench.is_gpu:
        yield
        return
    query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "250"]
    command = ["nvidia-smi", *query, "-i", str(bench.device.index or 0)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield
        finally:
            process.terminate()
            lines = [float(line) for line in process.communicate()[0].split()]
            found["busy_percent"] = round(sum(lines) / len(lines)) if lines else None
