"""Tasks of the lm-evaluation-harness after a job, held against likelihoods that transformers gives."""

import json
import os
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from secateur.spec.records.pipe import Message, TaskBegun, TaskResult
from secateur.spec.records.plan import Lack
from tests.harness import needs_harness
from tests.machines import cpu
from tests.tiny import VOCABULARY, WORDS, make_tiny_llama
from tests.worker.pruning.conftest import Recorder, Request, prune
from worker.harness import harness_version
from worker.pruning import PruningJob, Stopped, UserError, plan
from worker.pruning.tasks import ready
from worker.pruning.tasks.ready import borrow
from worker.pruning.tasks.score import OVERTIME

needs_harness()
ROWS = 12


def _questions(path: Path, rows: int = ROWS) -> Path:
    """Two or three choices of one or two words each."""
    draw = random.Random(0)
    lines = []
    for number in range(rows):
        choices = [" ".join(draw.choices(WORDS, k=draw.randint(1, 2))) for _ in range(2 + number % 2)]
        row = {
            "id": number,
            "question": " ".join(draw.choices(WORDS, k=4)),
            "choices": choices,
            "answer": number % 2,
        }
        lines.append(json.dumps(row))
    path.write_text("\n".join(lines))
    return path


def _asking(request_for: Request, path: Path, *tasks: dict[str, Any], **fields: Any) -> dict[str, Any]:
    request = request_for(tasks=list(tasks) or [{"name": "own", "dataset": "own"}], **fields)
    request["texts"]["own"] = {"path": str(path), "format": "jsonl", "text_field": "question"}
    return request


class Listener(Recorder):
    """Keeps what is said of tasks; stops at the first one if asked."""

    def __init__(self, *, stops: bool = False) -> None:
        super().__init__()
        self.tasks: list[TaskResult] = []
        self.begun: list[tuple[int, str]] = []
        self._stops = stops

    def tell(self, record: Message) -> None:
        super().tell(record)
        if isinstance(record, TaskBegun):
            self.begun.append((record.task, record.model))
        if isinstance(record, TaskResult):
            self.tasks.append(record)

    def check(self) -> None:
        super().check()
        if self._stops and self.tasks:
            raise Stopped


def _accuracy(folder: Path, path: Path) -> dict[str, float]:
    """Share of the rows whose answer is the likeliest choice: as it is, and for each of its characters."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    right = {"acc": 0, "acc_norm": 0}
    rows = list(map(json.loads, path.read_text().splitlines()))
    for row in rows:
        context = tokenizer(row["question"])["input_ids"]
        sums = []
        for choice in row["choices"]:
            ids = torch.tensor([tokenizer(f"{row['question']} {choice}")["input_ids"]])
            with torch.no_grad():
                logits = model(ids).logits.log_softmax(-1)
            sums.append(sum(float(logits[0, at - 1, ids[0, at]]) for at in range(len(context), ids.shape[1])))
        lengths = [len(choice) for choice in row["choices"]]
        right["acc"] += max(range(len(sums)), key=sums.__getitem__) == row["answer"]
        relative = [value / length for value, length in zip(sums, lengths, strict=True)]
        right["acc_norm"] += max(range(len(sums)), key=relative.__getitem__) == row["answer"]
    return {name: count / len(rows) for name, count in right.items()}


def test_both_models_answer_uploaded_questions_and_an_interrupted_job_asks_only_what_is_left(
    request_for: Request, tmp_path: Path
) -> None:
    path = _questions(tmp_path / "own.jsonl")
    request = _asking(request_for, path, numerics="exact")
    stopped, listener = Listener(stops=True), Listener()
    with pytest.raises(Stopped):
        prune(request, stopped)
    assert [each.model for each in stopped.tasks] == ["dense"]
    stages = len(stopped.stages)
    request["resume"] = {
        "stages": stages,
        "evaluations": [
            {"row": each.row, "domain": each.domain, "perplexity": each.perplexity} for each in stopped.evaluations
        ],
        "tasks": [each.model_dump(exclude={"type"}) for each in stopped.tasks],
    }
    output = prune(request, listener)
    assert stages == 1
    assert not listener.blocks
    assert [each.model for each in listener.tasks] == ["pruned"]
    scores = [*stopped.tasks, *listener.tasks]
    for each, folder in zip(
        scores, (request["model"], Path(request["workspace"]) / "stage-00/model"), strict=True
    ):
        found = {metric.name: metric for metric in each.metrics}
        assert {name: metric.value for name, metric in found.items()} == _accuracy(Path(folder), path)
        share = found["acc"].value
        assert found["acc"].stderr == pytest.approx((share * (1 - share) / (ROWS - 1)) ** 0.5)
        assert (each.rows, each.few_shot, each.limit, each.max_tokens) == (ROWS, 0, None, 32)
        assert (each.harness, each.dtype, each.error) == (harness_version(), "float32", None)
    report = json.loads((Path(request["workspace"]) / "report.json").read_text())
    assert report["tasks"] == [each.model_dump(exclude={"type"}) for each in scores]
    assert [progress.fraction for progress in listener.progresses] == sorted(
        progress.fraction for progress in listener.progresses
    )
    assert output.summary.warnings == []


def test_a_task_that_fails_is_recorded_and_the_job_is_published(request_for: Request, tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    long = " ".join(WORDS * 3)  # more than the 32 tokens of an input
    path.write_text(json.dumps({"question": "the cat", "choices": [long, "dog"], "answer": 1}))
    listener = Listener()
    output = prune(_asking(request_for, path), listener)
    assert {file.path for file in output.files} >= {"model/config.json", "report.json"}
    assert [(each.model, each.metrics) for each in listener.tasks] == [("dense", []), ("pruned", [])]
    assert all(each.error for each in listener.tasks)
    assert [warning.code for warning in output.summary.warnings] == ["task_failed", "task_failed"]


def test_a_task_that_ended_an_attempt_is_left_out_and_the_others_are_done(
    request_for: Request, tmp_path: Path
) -> None:
    path = _questions(tmp_path / "own.jsonl", rows=3)
    tasks = [{"name": name, "dataset": "own"} for name in ("deadly", "late", "sound")]
    request = _asking(request_for, path, *tasks)
    prune(request | {"tasks": []})
    why = "The engine was killed by a signal."
    ended = [{"task": 0, "model": "dense", "why": why}, {"task": 1, "model": "pruned", "why": why}]
    listener = Listener()
    output = prune(request | {"resume": {"stages": 1, "broken": ended}}, listener)
    found = {(each.name, each.model): each.error for each in listener.tasks}
    assert [key for key, error in found.items() if error is None] == [
        ("late", "dense"), ("sound", "dense"), ("sound", "pruned"),
    ]  # fmt: skip
    assert all(why in error for error in found.values() if error is not None)
    assert set(listener.begun) == {(1, "dense"), (2, "dense"), (2, "pruned")}
    assert [warning.code for warning in output.summary.warnings] == ["task_failed"] * 3


def test_a_job_whose_time_is_over_is_published_without_its_tasks(request_for: Request, tmp_path: Path) -> None:
    listener = Listener()
    request = _asking(request_for, _questions(tmp_path / "own.jsonl"), seconds_left=0.0)
    output = prune(request, listener)
    assert [each.error for each in listener.tasks] == [OVERTIME] * 2
    assert {file.path for file in output.files} >= {"model/config.json"}


def test_solved_questions_stand_before_each_and_a_limit_asks_fewer(
    request_for: Request, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = _questions(tmp_path / "own.jsonl")
    task = {"name": "own", "dataset": "own", "few_shot": 2, "limit": 3}
    listener = Listener()
    prune(_asking(request_for, path, task, evaluation={"sequence_length": 96, "max_windows": 1}), listener)
    assert [(each.rows, each.few_shot, each.limit) for each in listener.tasks] == [(3, 2, 3)] * 2
    assert "Running" not in capfd.readouterr().err, "no bar goes into the log"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("no json", "is not JSON"),
        ('{"choices": ["a", "b"], "answer": 0}', "no text under `question`"),
        ('{"question": "q", "choices": ["a"], "answer": 0}', "needs 2 to 64 texts under `choices`"),
        ('{"question": "q", "choices": ["a", " "], "answer": 0}', "needs 2 to 64 texts under `choices`"),
        ('{"question": "q", "choices": ["a", "\\ud800"], "answer": 0}', "needs 2 to 64 texts under `choices`"),
        ('{"question": "q", "choices": ["a", "b"], "answer": 2}', "has 2 under `answer`"),
        ('{"question": "q", "choices": ["a", "b"], "answer": true}', "has true under `answer`"),
        ('{"question": "q", "choices": ["a", "b"], "answer": "a"}', 'has "a" under `answer`'),
    ],
)
def test_a_bad_row_is_refused_by_its_line_before_anything_is_pruned(
    request_for: Request, tmp_path: Path, line: str, said: str
) -> None:
    path = _questions(tmp_path / "own.jsonl", rows=2)
    path.write_text(f"{path.read_text()}\n\n{line}\n")
    listener = Listener()
    with pytest.raises(UserError, match="line 4 ") as error:
        prune(_asking(request_for, path), listener)
    assert said in error.value.message
    assert (error.value.code, error.value.field) == ("invalid_questions", "/tasks/0/dataset")
    assert not listener.evaluations


@pytest.fixture
def arc_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness with one folder of its tasks, because all of them take seconds to list; no hub, no cache."""
    import lm_eval.tasks

    folder = Path(lm_eval.tasks.__file__).parent / "arc"
    manager = partial(lm_eval.tasks.TaskManager, include_path=folder, include_defaults=False)
    monkeypatch.setattr("lm_eval.tasks.TaskManager", manager)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("arc_alone")
@pytest.mark.parametrize(
    ("name", "code", "said"),
    [("arc_easy", "task_unavailable", "SECATEUR_TASK_DATA"), ("arc_eazy", "unknown_task", "there are arc_easy")],
)
def test_a_task_that_cannot_be_asked_is_refused_before_anything_is_pruned(
    request_for: Request, name: str, code: str, said: str
) -> None:
    listener = Listener()
    with pytest.raises(UserError) as error:
        prune(request_for(tasks=[{"name": name}]), listener)
    assert said in error.value.message
    assert (error.value.code, error.value.field) == (code, "/tasks/0/name")
    assert not listener.evaluations


def test_more_solved_questions_than_rows_are_refused(request_for: Request, tmp_path: Path) -> None:
    path = _questions(tmp_path / "own.jsonl", rows=2)
    with pytest.raises(UserError, match="less than the 2 rows") as error:
        prune(_asking(request_for, path, {"name": "own", "dataset": "own", "few_shot": 2}))
    assert error.value.field == "/tasks/0/few_shot"


def test_without_the_harness_a_new_job_is_refused_and_a_resumed_one_keeps_what_was_pruned(
    request_for: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = _asking(request_for, _questions(tmp_path / "own.jsonl"))
    prune(request | {"tasks": []})
    monkeypatch.setattr(ready, "harness_version", lambda: None)
    with pytest.raises(UserError, match="not installed") as error:
        prune(request | {"workspace": str(tmp_path / "other")})
    assert error.value.field == "/tasks"
    listener = Listener()
    prune(request | {"resume": {"stages": 1}}, listener)
    assert [each.error for each in listener.tasks] == [ready.ABSENT] * 2
    assert not listener.blocks


def test_a_plan_counts_the_whole_model_and_needs_a_worker_with_the_harness(
    request_for: Request, tmp_path: Path
) -> None:
    """Of a model with so many blocks that all of them are more than what one takes."""
    folder = make_tiny_llama(tmp_path / "deep", blocks=40, hidden=192)
    request = request_for(model=str(folder), tasks=[{"name": "arc_easy"}])
    request |= {"hidden_bytes": 0, "evaluation": {"sequence_length": 32, "max_windows": 1}}
    without, having = (cpu().model_copy(update={"harness": version}) for version in (None, "0.4.13"))
    request["machines"] = [each.model_dump(mode="json") for each in (without, having)]
    known = plan(PruningJob.from_dict(request))
    found = known["estimates"]
    plain = plan(PruningJob.from_dict(request | {"tasks": []}))["estimates"]
    assert [fit["lacks"] for fit in found["workers"]] == [[Lack.harness], []]
    parts = found["memory_bytes"]["parts"]
    assert parts.keys() - plain["memory_bytes"]["parts"].keys() == {"harness", "tasks"}
    others = sum(parts[name] for name in parts.keys() - {"harness", "tasks", "process", "outer_weights"})
    whole = 4 * known["parameters"] + 12 * 32 * VOCABULARY  # in float32, with three copies of an input's logits
    assert parts["tasks"] == whole - others > 0
    assert found["seconds"]["total"] > plain["seconds"]["total"]
    assert "the whole model" in found["memory_bytes"]["how"]


def test_a_borrowed_cache_is_links_beside_locks_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    folder = theirs / "datasets/allenai___ai2_arc/ARC-Easy/0.0.0"
    folder.mkdir(parents=True)
    (folder / "data.arrow").write_bytes(b"rows")
    (folder / "data.lock").touch()
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(ours))
    borrow(theirs)
    inside = ours / "allenai___ai2_arc/ARC-Easy/0.0.0"
    assert os.listdir(inside) == ["data.arrow"]
    assert (inside / "data.arrow").read_bytes() == b"rows"
    (inside / "data.lock").touch()
    borrow(theirs)
