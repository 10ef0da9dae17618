"""Perplexity of any checkpoint folder on any texts, under the protocol of a job's evaluation."""

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

from secateur.digests import file_sha256
from secateur.spec.job import Evaluation as EvaluationSpec
from secateur.spec.job import Numerics
from secateur.spec.records.pipe import Evaluation
from secateur.spec.request import Text
from worker.pruning.calibration.tokenizer import Tokenizer
from worker.pruning.calibration.vocabulary import check_ids
from worker.pruning.calibration.windows import evaluation_windows
from worker.pruning.evaluation.losses import TestSet, forward_dtype, mean_loss, window_losses
from worker.pruning.model.block_runner import BlockRunner
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.model.graph import build_graph
from worker.pruning.model.inspection import inspect
from worker.pruning.observer import Observer, Silent
from worker.pruning.runtime.hidden_states import HiddenStates, Room
from worker.pruning.runtime.numerics import pick_device, torch_settings


def test_set(
    domain: str, text: Text, spec: EvaluationSpec, tokenizer: Tokenizer, dtype: str, field: str
) -> TestSet:
    """One text's windows and protocol."""
    windows = evaluation_windows(tokenizer, text, spec, field)
    protocol = {
        "text_sha256": file_sha256(text.path),
        "sequence_length": spec.sequence_length,
        "max_windows": spec.max_windows,
        "documents": spec.documents,
        "tokenizer_sha256": tokenizer.digest,
        "prefix": list(tokenizer.prefix),
        "dtype": dtype,
    }
    return TestSet(domain, windows, protocol, len(tokenizer.prefix))


def evaluation(row: int, item: TestSet, losses: list[float]) -> Evaluation:
    """One entry of R."""
    loss = mean_loss(losses)
    return Evaluation(
        row=row,
        domain=item.domain,
        # A broken model's loss may be past what a float can hold; JSON knows no infinity.
        perplexity=math.exp(min(loss, 700.0)),
        loss=loss,
        windows=len(losses),
        tokens=item.tokens,
        window_losses=losses,
        protocol=item.protocol,
    )


def perplexities(
    folder: Path,
    texts: Mapping[str, Text],
    spec: EvaluationSpec,
    *,
    device: str = "auto",
    threads: int = 2,
    numerics: Numerics = Numerics.fast,
    observer: Observer | None = None,
    scratch: Path | None = None,
) -> dict[str, Evaluation]:
    """Evaluate the checkpoint in `folder` on every text, all at once, block by block.

    scratch: folder for what hidden states do not fit in memory; the system's folder for such things by default.
    """
    listener = observer or Silent()
    where = pick_device(device)
    with torch_settings(threads, numerics, where):
        source = Checkpoint.open(folder)
        graph = build_graph(folder, source)
        inspect(source, graph, listener.check)
        tokenizer, dtype = Tokenizer(folder), forward_dtype(where, numerics)
        runner = BlockRunner(graph, source, where, dtype)
        sets = [test_set(name, text, spec, tokenizer, dtype, f"/{name}") for name, text in texts.items()]
        for item in sets:
            check_ids((item.windows,), graph, tokenizer, f"/{item.domain}")
        # A block, its activations and logits are far less than the GPU that somebody chose for the model.
        room = Room.beside(torch.cuda.mem_get_info(where)[0] / 2 if where.type == "cuda" else 0, [where], None)
        with HiddenStates(scratch or Path(tempfile.gettempdir()), where, room) as hidden:
            losses = window_losses(runner, source, sets, dtype, hidden, lambda _block, _tokens: listener.check())
    return {item.domain: evaluation(0, item, own) for item, own in zip(sets, losses, strict=True)}
