"""Tasks of the lm-evaluation-harness after a job, held against likelihoods that transformers gives."""

import json
import random
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from secateur.spec.records.pipe import Message, TaskBegun, TaskResult
from tests.harness import needs_harness
from tests.tiny import POSITIONS, WORDS
from tests.worker.pruning.conftest import Recorder, Request, prune
from worker.harness import harness_version
from worker.pruning import PruningJob, Stopped, UserError, plan
from worker.pruning.tasks import ready, whole_model
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
        assert (each.rows, each.few_shot, each.limit, each.max_tokens) == (ROWS, 0, None, POSITIONS)
        assert each.truncated == 0
        assert (each.harness, each.dtype, each.error) == (harness_version(), "float32", None)
    report = json.loads((Path(request["workspace"]) / "report.json").read_text())
    assert report["tasks"] == [each.model_dump(exclude={"type"}) for each in scores]
    assert [progress.fraction for progress in listener.progresses] == sorted(
        progress.fraction for progress in listener.progresses
    )
    assert output.summary.warnings == []


def test_a_task_that_fails_is_recorded_and_the_job_is_published(
    request_for: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: Any) -> None:
        raise RuntimeError("no such figure")

    monkeypatch.setattr("lm_eval.evaluator.evaluate", fail)
    listener = Listener()
    output = prune(_asking(request_for, _questions(tmp_path / "own.jsonl")), listener)
    assert {file.path for file in output.files} >= {"model/config.json", "report.json"}
    assert [(each.model, each.metrics) for each in listener.tasks] == [("dense", []), ("pruned", [])]
    assert {each.error for each in listener.tasks} == {"RuntimeError: no such figure"}
    assert [warning.code for warning in output.summary.warnings] == ["task_failed", "task_failed"]


def test_inputs_that_are_too_long_are_counted_and_told_once(request_for: Request, tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    long, short = " ".join(WORDS[:2] * 200), "the cat"
    rows = [{"question": text, "choices": ["a", "dog", "rose"], "answer": 1} for text in (long, short)]
    path.write_text("\n".join(map(json.dumps, rows)))
    listener = Listener()
    output = prune(_asking(request_for, path), listener)
    assert [(each.truncated, each.error) for each in listener.tasks] == [(3, None)] * 2
    (warning,) = output.summary.warnings
    assert (warning.code, warning.data) == ("tasks_truncated", {"tasks": ["own"], "inputs": 6})


def test_what_is_cut_keeps_the_tokenizers_prefix(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_model, "Tokenizer", lambda _: SimpleNamespace(prefix=(7,)))
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    asked = whole_model.for_harness(model, tiny_llama, 6, lambda _: None)
    seen: list[list[int]] = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0].tolist()))
    for context in ([7, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 6], [7, 1, 2]):
        asked._loglikelihood_tokens([(("", ""), context, [8, 9])], disable_tqdm=True)
    assert seen == [[7, 3, 4, 5, 6, 8], [2, 3, 4, 5, 6, 8], [7, 1, 2, 8]]
    assert asked.truncated == 2


def test_scores_under_other_settings_are_asked_again(request_for: Request, tmp_path: Path) -> None:
    path = _questions(tmp_path / "own.jsonl", rows=3)
    request = _asking(request_for, path, *({"name": name, "dataset": "own"} for name in ("one", "two")))
    first = Listener()
    prune(request, first)
    kept = [each.model_dump(exclude={"type"}) for each in first.tasks]
    kept[0]["harness"] = kept[1]["harness"] = "0.0.1"
    kept[1] |= {"metrics": [], "error": "it failed"}
    listener = Listener()
    prune(request | {"resume": {"stages": 1, "tasks": kept}}, listener)
    again = [(each.task, each.model) for each in listener.tasks]
    assert again == [(first.tasks[0].task, first.tasks[0].model)], "what has no figures compares with nothing"
    assert listener.tasks[0] == first.tasks[0]
    assert {"scores": 1} in [data for level, _, data in listener.notes if level == "warning"]


def test_a_resumed_job_is_not_refused_for_its_tasks(request_for: Request, tmp_path: Path) -> None:
    path = _questions(tmp_path / "own.jsonl", rows=2)
    request = _asking(request_for, path, {"name": "own", "dataset": "own", "few_shot": 2})
    prune(request | {"tasks": []})
    listener = Listener()
    prune(request | {"resume": {"stages": 1}}, listener)
    assert [each.model for each in listener.tasks] == ["dense", "pruned"]
    assert all("less than the 2 rows" in str(each.error) for each in listener.tasks)


def test_a_model_that_this_machine_does_not_hold_is_pruned_without_its_tasks(
    request_for: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lack = "the whole model takes 9.00 GB of memory, and this machine has 4.00"
    monkeypatch.setattr("worker.pruning.runner.tasks_lack", lambda *_: lack)
    listener = Listener()
    output = prune(_asking(request_for, _questions(tmp_path / "own.jsonl")), listener)
    assert [each.error for each in listener.tasks] == [lack] * 2
    assert not listener.begun
    assert sum(lack in message for level, message, _ in listener.notes if level == "warning") == 3
    assert {file.path for file in output.files} >= {"model/config.json"}


@pytest.mark.parametrize("ended", [[(0, "dense")], [(1, "pruned")], [(0, "dense"), (1, "pruned")]], ids=str)
def test_a_task_that_ended_an_attempt_is_left_out_and_after_two_all_are(
    request_for: Request, tmp_path: Path, ended: list[tuple[int, str]]
) -> None:
    path = _questions(tmp_path / "own.jsonl", rows=3)
    request = _asking(request_for, path, *[{"name": name, "dataset": "own"} for name in ("one", "two", "three")])
    prune(request | {"tasks": []})
    why = "The engine was killed by a signal."
    broken = [{"task": task, "model": model, "why": why} for task, model in ended]
    listener = Listener()
    output = prune(request | {"resume": {"stages": 1, "broken": broken}}, listener)
    found = {(each.task, each.model): each.error for each in listener.tasks}
    left = {key for each in ended for key in (each, (each[0], "pruned"))} if len(ended) == 1 else found.keys()
    assert {key for key, error in found.items() if error is not None} == left
    assert all("ended" in error for error in found.values() if error is not None)
    assert set(listener.begun) == found.keys() - left
    assert [warning.code for warning in output.summary.warnings] == ["task_failed"] * len(left)
    assert {file.path for file in output.files} >= {"model/config.json"}
    # What is left out is kept as done: the next attempt that ends in a task is the second all the same.
    kept = [each.model_dump(mode="json", exclude={"type"}) for each in listener.tasks if each.error is not None]
    last = {"stages": 1, "broken": [{"task": 2, "model": "dense", "why": why}], "tasks": kept}
    again = Listener()
    prune(request | {"resume": last}, again)
    assert not again.begun


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


def test_a_choice_longer_than_any_input_is_refused_by_its_line(request_for: Request, tmp_path: Path) -> None:
    path = _questions(tmp_path / "own.jsonl", rows=2)
    row = {"question": "q", "choices": ["a", " ".join(WORDS[:2] * 200)], "answer": 0}
    path.write_text(f"{path.read_text()}\n{json.dumps(row)}\n")
    with pytest.raises(UserError, match=f"line 3 has a choice of .* and the model reads {POSITIONS} at once"):
        prune(_asking(request_for, path))


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
def test_a_task_that_the_harness_does_not_know_is_refused_before_anything_is_pruned(request_for: Request) -> None:
    listener = Listener()
    request = request_for(tasks=[{"name": "arc_eazy"}])
    for begin in (partial(prune, request, listener), partial(plan, PruningJob.from_dict(request))):
        with pytest.raises(UserError, match="there are arc_easy") as error:
            begin()
        assert (error.value.code, error.value.field) == ("unknown_task", "/tasks/0/name")
    assert not listener.evaluations


@pytest.mark.usefixtures("arc_alone")
def test_a_task_whose_data_this_worker_lacks_costs_its_figures_and_is_told_at_once(request_for: Request) -> None:
    listener = Listener()
    output = prune(request_for(tasks=[{"name": "arc_easy"}]), listener)
    assert all("SECATEUR_TASK_DATA" in str(each.error) for each in listener.tasks)
    assert [each.model for each in listener.tasks] == ["dense", "pruned"]
    told = [message for level, message, _ in listener.notes if level == "warning"]
    assert any("the job goes on without it" in message for message in told)
    assert {file.path for file in output.files} >= {"model/config.json"}


def test_more_solved_questions_than_rows_are_refused(request_for: Request, tmp_path: Path) -> None:
    path = _questions(tmp_path / "own.jsonl", rows=2)
    with pytest.raises(UserError, match="less than the 2 rows") as error:
        prune(_asking(request_for, path, {"name": "own", "dataset": "own", "few_shot": 2}))
    assert error.value.field == "/tasks/0/few_shot"
    with pytest.raises(UserError, match="less than the 2 rows"):
        plan(PruningJob.from_dict(_asking(request_for, path, {"name": "own", "dataset": "own", "few_shot": 2})))


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
