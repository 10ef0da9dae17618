"""Which files are a split."""

import pytest

from worker.intake.dataset_card import CardConfig
from worker.intake.dataset_files import parquet_branch_files, split_files
from worker.model_files.errors import IntakeError


@pytest.mark.parametrize(
    ("paths", "config", "split", "expected"),
    [
        (["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"], None, "test", [1]),
        (["en/train-0-of-2.parquet", "en/train-1-of-2.parquet", "de/train-0-of-1.parquet"], "en", "train", [0, 1]),
        (["train.jsonl", "test.jsonl"], "default", "train", [0]),
        (["train.jsonl", "train.parquet"], None, "train", [1]),
        (["train/0.txt", "train/1.txt"], None, "train", [0, 1]),
        (["data/dev.jsonl"], None, "validation", [0]),
        (["corpus.txt", "script.py"], None, "train", [0]),
        (["a.txt", "b.txt"], None, "train", []),
        (["training.jsonl", "other.jsonl"], None, "train", []),
        (["script.py", "README.md"], None, "train", []),
        (["train.csv"], None, "train", []),
    ],
)  # fmt: skip
def test_conventional_names(paths: list[str], config: str | None, split: str, expected: list[int]) -> None:
    assert split_files(paths, [], config, split, lambda: None) == [paths[i] for i in expected]


CARDS = [
    CardConfig("en", True, "", {"train": ("en/*.parquet",), "test": ("t.parquet",)}),
    CardConfig("de", False, "data", {"train": ("de/*",)}),
    CardConfig("fr", False, "french", None),
]
PATHS = ["en/0.parquet", "en/1.parquet", "en/notes.txt", "data/de/0.jsonl", "french/train.txt", "t.parquet"]


@pytest.mark.parametrize(
    ("config", "split", "expected"),
    [
        (None, "train", ["en/0.parquet", "en/1.parquet"]),
        ("en", "test", ["t.parquet"]),
        ("de", "train", ["data/de/0.jsonl"]),
        ("fr", "train", ["french/train.txt"]),
    ],
)
def test_the_readme_decides(config: str | None, split: str, expected: list[str]) -> None:
    assert split_files(PATHS, CARDS, config, split, lambda: None) == expected


def test_what_the_readme_does_not_have_is_refused_with_what_it_has() -> None:
    with pytest.raises(IntakeError, match="de, en, fr") as caught:
        split_files(PATHS, CARDS, "it", "train", lambda: None)
    assert (caught.value.code, caught.value.field) == ("config_not_found", "/hub/config")
    with pytest.raises(IntakeError, match="test, train") as caught:
        split_files(PATHS, CARDS, "en", "dev", lambda: None)
    assert caught.value.code == "split_not_found"
    with pytest.raises(IntakeError, match="de, fr"):
        split_files(PATHS, CARDS[1:], None, "train", lambda: None)


def test_the_hubs_parquet_copy() -> None:
    paths = [
        "en/train/0000.parquet",
        "en/train/0001.parquet",
        "en/test/0000.parquet",
        "de/partial-train/0000.parquet",
    ]
    assert parquet_branch_files(paths, "en", "train") == paths[:2]
    with pytest.raises(IntakeError, match="de, en"):
        parquet_branch_files(paths, None, "train")
    with pytest.raises(IntakeError, match="partial-train"):
        parquet_branch_files(paths, "de", "train")
    assert parquet_branch_files(paths[:3], None, "test") == [paths[2]]
