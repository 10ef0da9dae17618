"""A job over windows that begin with what the tokenizer puts before every text."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from secateur.spec.job import Numerics
from tests.tiny import make_tiny, put_before
from tests.worker.pruning.conftest import Recorder, Request, prune
from tests.worker.pruning.lineages import continuing, run_job
from worker.pruning import (
    Documents,
    EvaluationSpec,
    Format,
    PruningJob,
    SpecError,
    Text,
    UserError,
    perplexities,
    plan,
)

BEFORE = "<|end|>", "Ġthe"
"""Both are in the tiny vocabulary: one token that no text has, and one that every text has."""


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return put_before(make_tiny("llama", tmp_path_factory.mktemp("prefixed")), *BEFORE, behind="<|end|>")


def prefix_of(folder: Path) -> list[int]:
    return AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(list(BEFORE))


def theirs(folder: Path, windows: list[list[int]], context: int) -> float:
    """Perplexity by transformers alone, of all tokens behind the first `context`."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor(windows)
    with torch.inference_mode():
        logits = model(ids).logits[:, context - 1 : -1]
    return float(functional.cross_entropy(logits.flatten(0, 1), ids[:, context:].flatten()).exp())


@pytest.mark.parametrize("before", [(), BEFORE[:1], BEFORE])
def test_perplexity_is_that_of_transformers_behind_the_prefix(
    before: tuple[str, ...], texts: Path, tmp_path: Path
) -> None:
    """A window of 32 tokens: the prefix, which is never predicted, and the text, of which every token is that has
    something before it."""
    folder = make_tiny("llama", tmp_path / "model")
    if before:
        put_before(folder, *before, behind="<|end|>")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer((texts / "c.txt").read_text(), add_special_tokens=False)["input_ids"]
    prefix, length = tokenizer.convert_tokens_to_ids(list(before)), 32 - len(before)
    windows = [[*prefix, *ids[start : start + length]] for start in range(0, 6 * length, length)]
    text = Text(path=texts / "c.txt")
    found = perplexities(
        folder,
        {"c": text},
        EvaluationSpec(sequence_length=32, max_windows=6),
        device="cpu",
        threads=1,
        numerics=Numerics.exact,
    )["c"]
    context = max(len(before), 1)
    assert found.perplexity == pytest.approx(theirs(folder, windows, context), rel=1e-5)
    assert found.tokens == 6 * (32 - context)
    assert found.protocol["prefix"] == prefix


@pytest.mark.parametrize("allocation", ["uniform", "owl", "error"])
def test_report_plan_and_state_say_the_prefix(request_for: Request, llama: Path, allocation: str) -> None:
    prefix = prefix_of(llama)
    request = request_for(model=str(llama), sparsity={"target": 0.5, "allocation": allocation}, domains="ab")
    assert plan(PruningJob.from_dict(request))["prefix"] == prefix
    recorder = Recorder()
    output = prune(request, recorder)
    report = json.loads((Path(request["workspace"]) / "report.json").read_text())
    assert report["model"]["prefix"] == prefix
    assert report["evaluation"]["protocols"]["b"]["prefix"] == prefix
    assert report["evaluation"]["protocols"]["b"]["documents"] == "joined"
    assert recorder.evaluations[-1].tokens == 4 * (32 - len(prefix))
    assert output.summary.sparsity == pytest.approx(0.5, abs=1e-3)


def test_what_is_learned_is_what_stands_behind_the_prefix(
    request_for: Request, texts: Path, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every window that reaches the model begins with it, the held-out ones and the survey's too, which does not
    look at how the text's first token is predicted from the prefix alone."""
    from worker.pruning.allocation import survey
    from worker.pruning.model.block_runner import BlockRunner

    seen: list[Tensor] = []
    first_looked_at: set[int] = set()
    enter, pieces = BlockRunner.enter, survey.pieces

    def watch(runner: BlockRunner, ids: Tensor, *batch: int) -> Tensor:
        seen.append(ids)
        return enter(runner, ids, *batch)

    def cut(*arguments: Any) -> list[slice]:
        found = pieces(*arguments)
        first_looked_at.add(found[0].start + 1)
        return found

    monkeypatch.setattr(BlockRunner, "enter", watch)
    monkeypatch.setattr(survey, "pieces", cut)
    prune(request_for(model=str(llama), sparsity={"target": 0.5, "allocation": "error"}))
    prefix = torch.tensor(prefix_of(llama))
    assert len(seen) >= 4  # survey, solved on, held out, evaluation
    assert all(bool((ids[:, :2] == prefix).all()) and ids.shape[1] == 32 for ids in seen)
    assert not any(bool((ids[:, 2] == prefix[0]).any()) for ids in seen)
    assert first_looked_at == {len(prefix) + 1}


@pytest.mark.parametrize("place", ["/domains/0/calibration/sequence_length", "/evaluation/sequence_length"])
def test_a_window_that_the_prefix_fills_is_refused(
    request_for: Request, llama: Path, texts: Path, place: str
) -> None:
    request = request_for(model=str(llama))
    target: Any = request
    for part in place.split("/")[1:-1]:
        target = target[int(part) if part.isdigit() else part]
    target["sequence_length"] = 2
    for attempt in (prune, lambda given: plan(PruningJob.from_dict(given))):
        with pytest.raises(SpecError, match="more than 2, the tokens that the tokenizer puts before") as caught:
            attempt(request)
        assert caught.value.field == place
    if place.startswith("/evaluation"):
        with pytest.raises(SpecError, match="more than 2"):
            perplexities(llama, {"c": Text(path=texts / "c.txt")}, EvaluationSpec(sequence_length=2))
    target["sequence_length"] = 3
    prune(request)


def test_a_state_without_the_prefix_is_not_continued(request_for: Request, tmp_path: Path) -> None:
    """As an older engine left it, which cut windows anywhere."""
    folder = make_tiny("llama", tmp_path / "model")
    parent = run_job(request_for(model=str(folder), workspace="parent"))
    request = request_for(model=str(folder), domains="b")
    prune(continuing(parent, request))
    put_before(folder, *BEFORE)
    with pytest.raises(UserError, match="begin a new lineage") as caught:
        prune(continuing(parent, {**request, "workspace": str(tmp_path / "later")}))
    assert (caught.value.code, caught.value.field) == ("state_mismatch", "/continues")


def test_separate_documents_have_their_own_windows(texts: Path, llama: Path, tmp_path: Path) -> None:
    tokenizer, prefix = AutoTokenizer.from_pretrained(llama), prefix_of(llama)
    lines = (texts / "c.txt").read_text().splitlines()[:12]
    parts = [line if number % 3 else line[:40] for number, line in enumerate(lines)]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps({"text": part}) + "\n" for part in parts))
    windows = []
    for part in parts:
        ids = tokenizer(part, add_special_tokens=False)["input_ids"]
        windows += [[*prefix, *ids[start : start + 30]] for start in range(0, len(ids) - 29, 30)]
    spec = EvaluationSpec(sequence_length=32, max_windows=7, documents=Documents.separate)
    documents = {"c": Text(path=path, format=Format.jsonl)}
    found = perplexities(llama, documents, spec, device="cpu", threads=1, numerics=Numerics.exact)["c"]
    assert found.perplexity == pytest.approx(theirs(llama, windows[:7], 2), rel=1e-5)
    assert found.protocol["documents"] == "separate"
