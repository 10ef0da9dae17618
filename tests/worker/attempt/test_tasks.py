"""Tasks in the real engine's process, which has no network and reads only what its request names.

Slow: that the harness finds its own data inside that process, and nothing outside, no part alone shows.
"""

import json
from pathlib import Path

import pytest
from datasets import Dataset, DatasetInfo, SplitDict, SplitInfo
from datasets.arrow_writer import ArrowWriter
from sqlalchemy.orm import Session

from app.delivery import checkpoint
from app.history.evaluation import evaluation_of
from app.settings import Settings
from app.storage import ObjectStore
from app.tables.states import State
from tests import tiny
from tests.harness import needs_harness
from tests.jobs import JobMaker, make_dataset
from tests.worker.harness import Watch, make_tiny_jobs
from worker.attempt import run_jobs
from worker.attempt.card import PATH as CARD

needs_harness()
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

EVALUATION = {"sequence_length": 64, "max_windows": 2}
QUESTIONS = [
    {"question": "the cat prunes", "choices": ["the rose", "a stone", "dry leaf"], "answer": number % 3}
    for number in range(6)
]


@pytest.fixture
def jobs(session: Session, store: ObjectStore, tmp_path: Path) -> JobMaker:
    return make_tiny_jobs(session, store, tiny.make_tiny_llama(tmp_path / "tiny"), domains=1)


@pytest.fixture
def arc_easy(tmp_path: Path) -> Path:
    """A cache as `datasets` makes one, with the data of the harness's task `arc_easy`."""
    folder = tmp_path / "cache/datasets/allenai___ai2_arc/ARC-Easy/0.0.0/0123456789abcdef"
    folder.mkdir(parents=True)
    rows = Dataset.from_list(
        [
            {
                "id": str(number),
                "question": each["question"],
                "choices": {"text": each["choices"], "label": ["A", "B", "C"]},
                "answerKey": "ABC"[number % 3],
            }
            for number, each in enumerate(QUESTIONS)
        ]
    )
    splits = SplitDict(dataset_name="ai2_arc")
    for split in ("train", "validation", "test"):
        writer = ArrowWriter(path=str(folder / f"ai2_arc-{split}.arrow"), features=rows.features)
        for row in rows:
            writer.write(row)
        count, size = writer.finalize()
        splits.add(SplitInfo(split, num_bytes=size, num_examples=count, dataset_name="ai2_arc"))
    named = {"config_name": "ARC-Easy", "dataset_name": "ai2_arc", "builder_name": "ai2_arc", "version": "0.0.0"}
    DatasetInfo(features=rows.features, splits=splits, **named).write_to_directory(str(folder))
    return tmp_path / "cache"


def test_uploaded_questions_and_a_task_of_the_harness_are_done_offline(
    jobs: JobMaker, session: Session, store: ObjectStore, settings: Settings, arc_easy: Path
) -> None:
    text = "\n".join(map(json.dumps, QUESTIONS))
    own = make_dataset(session, jobs.project, text, store, format="jsonl")
    tasks = [{"name": "own", "dataset": own}, {"name": "arc_easy", "limit": 3}]
    watch = Watch(session, jobs.make(method={"name": "wanda"}, evaluation=EVALUATION, tasks=tasks))
    assert run_jobs(settings.model_copy(update={"task_data": arc_easy}), "first") == 1
    assert watch.state is State.succeeded, watch.row.failure
    found = evaluation_of(session, watch.row).tasks
    assert [(each.name, each.model, each.rows) for each in found] == [
        ("own", "dense", 6), ("own", "pruned", 6), ("arc_easy", "dense", 3), ("arc_easy", "pruned", 3),
    ]  # fmt: skip
    assert all({metric.name for metric in each.metrics} == {"acc", "acc_norm"} for each in found)
    assert [each.text_sha256 is not None for each in found] == [True, True, False, False]
    kept = checkpoint.load(session, watch.id).tasks
    assert kept == tuple(each.model_dump() for each in found), "an attempt after this one asks nothing again"
    card = next(file for file in watch.row.manifest["files"] if file["path"] == CARD)
    assert "| `arc_easy` | pruned |" in b"".join(store.stream(card["key"], 0, card["bytes"])).decode()
