"""Which files of a repository are read: by its README, or by names as the hub has them."""

from pathlib import Path
from typing import Any

import pytest

from worker.intake.rows.choose import split_files
from worker.intake.rows.tables import module_of
from worker.isolation import Limits, run_isolated
from worker.model_files.errors import IntakeError

PLAIN = ["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet", "README.md", "data.py"]
HEAD = """---
configs:
- config_name: en
  data_files:
  - {split: train, path: ['english/*.jsonl', 'more/a.jsonl']}
  - {split: test, path: english/test.jsonl}
- config_name: de
  default: true
  data_dir: german
  data_files: '*.csv.gz'
- config_name: plain
  data_dir: other
---
"""
CARDED = [
    "english/0.jsonl",
    "english/1.jsonl",
    "english/test.jsonl",
    "more/a.jsonl",
    "german/x.csv.gz",
    "other/a.txt",
]


def choose(
    folder: Path, paths: list[str], config: str | None = None, split: str = "train", readme: str | None = None
) -> list[str]:
    card = None
    if readme is not None:
        card = folder / "card"
        card.write_text(readme)
    (folder / "tree").mkdir()
    return list(split_files(folder / "tree", paths, card, config, split)["files"])


@pytest.mark.parametrize(
    ("paths", "split", "expected"),
    [
        (PLAIN, "train", [PLAIN[0]]),
        (PLAIN, "test", [PLAIN[1]]),
        (PLAIN, "validation", []),
        (["dev.jsonl", "train.jsonl"], "validation", ["dev.jsonl"]),
        (["corpus.txt"], "train", ["corpus.txt"]),
        (["train/a.csv", "train/b.csv", "test/a.csv"], "train", ["train/a.csv", "train/b.csv"]),
        (["train.csv.zst"], "train", ["train.csv.zst"]),
        (["train.jsonl", "train.parquet"], "train", ["train.parquet"]),
        (["data.py", "image.png", "archive.zip", "config.json", "dataset_infos.json"], "train", []),
        ([], "train", []),
        (["/etc/passwd.txt", "../../evil.txt", "a\0b.txt", "x" * 5000 + ".txt"], "train", []),
    ],
)
def test_names_say_the_split(paths: list[str], split: str, expected: list[str], tmp_path: Path) -> None:
    assert choose(tmp_path, paths, split=split) == expected


@pytest.mark.parametrize(
    ("config", "split", "expected"),
    [
        ("en", "train", ["english/0.jsonl", "english/1.jsonl", "english/test.jsonl", "more/a.jsonl"]),
        ("en", "test", ["english/test.jsonl"]),
        (None, "train", ["german/x.csv.gz"]),
        ("plain", "train", ["other/a.txt"]),
    ],
)
def test_the_readme_goes_before_names(config: str | None, split: str, expected: list[str], tmp_path: Path) -> None:
    assert choose(tmp_path, CARDED, config, split, HEAD) == expected


def test_a_configuration_without_a_readme_is_a_folder(tmp_path: Path) -> None:
    assert choose(tmp_path, ["en/train.jsonl", "de/train.jsonl"], "de") == ["de/train.jsonl"]


@pytest.mark.parametrize(
    ("config", "split", "code", "words"),
    [("fr", "train", "config_not_found", "de, en, plain"), ("en", "dev", "split_not_found", "test, train")],
)
def test_what_there_is_not_is_said_with_what_there_is(
    config: str, split: str, code: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(IntakeError) as caught:
        choose(tmp_path, CARDED, config, split, HEAD)
    assert (caught.value.code, caught.value.field) == (code, f"/hub/{code.partition('_')[0]}")
    assert words in caught.value.message


def card(path: object) -> str:
    return f"---\nconfigs:\n- config_name: default\n  data_files: {path}\n---\n"


@pytest.mark.parametrize(
    "path",
    [
        "http://169.254.169.254/x.txt",
        "hf://datasets/a/b/x.txt",
        "zip://x.txt::http://host/a.zip",
        "/etc/passwd",
        "../../../etc/passwd",
        "~/secret.txt",
        "file:///etc/passwd",
        "s3://bucket/x.txt",
        "a\\b.txt",
        "[{split: train, path: 'https://host/x.txt'}]",
    ],
)
def test_addresses_and_ways_out_are_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(IntakeError) as caught:
        choose(tmp_path, ["train.txt"], readme=card(path))
    assert caught.value.code == "data_files_path"


@pytest.mark.parametrize(
    "readme",
    [
        "---\nconfigs: 3\n---\n",
        "---\nconfigs: [3]\n---\n",
        "---\nconfigs:\n- {config_name: [1]}\n---\n",
        "---\nconfigs: {a: *b}\n---\n",
        card("{1: 2}"),
        card("[1, 2]"),
        card("['" + "x" * 400 + "']"),
        "---\nconfigs:\n- {config_name: default, data_dir: 7, data_files: a}\n---\n",
    ],
)
def test_a_readme_that_cannot_be_meant_is_refused(readme: str, tmp_path: Path) -> None:
    with pytest.raises(IntakeError) as caught:
        choose(tmp_path, ["train.txt"], readme=readme)
    assert caught.value.code == "dataset_card_invalid"
    assert str(tmp_path) not in caught.value.message


def test_text_without_a_head_says_nothing(tmp_path: Path) -> None:
    assert choose(tmp_path, ["train.txt"], readme="# A dataset\n\n---\n") == ["train.txt"]


def test_only_plain_tables_and_texts_are_read() -> None:
    names = {"a.parquet": "parquet", "a.json.gz": "json", "a.tsv": "csv", "a.TXT": "text", "a.parquet.gz": None}
    names |= {"a.py": None, "a.zip": None, "a.pkl": None, "a": None, "dataset_infos.json": None}
    assert {name: module_of(name) for name in names} == names


def isolated(folder: Path, paths: list[str], readme: str, **limits: Any) -> dict[str, Any]:
    (folder / "work" / "tree").mkdir(parents=True)
    (folder / "card").write_text(readme)
    request = {"act": "choose", "folder": str(folder / "work" / "tree"), "paths": paths, "split": "train"}
    request |= {"readme": str(folder / "card"), "config": None}
    return run_isolated(
        "worker.intake.rows.reader",
        request,
        what="the dataset",
        workspace=folder / "work",
        readable=[folder / "card"],
        limits=Limits.of_reader(2**30, limits.get("seconds", 20), 1, 2**20),
    )


BOMB = "---\na: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "readme",
    [
        BOMB + "configs:\n- config_name: default\n  data_files: *i\n---\n",
        "---\nconfigs: " + "[" * 200_000 + "\n---\n",
    ],
)
def test_a_readme_that_is_a_bomb_is_the_users_fault(readme: str, tmp_path: Path) -> None:
    """A few lines that mean a hundred million paths; brackets deeper than any stack."""
    with pytest.raises(IntakeError):
        isolated(tmp_path, ["train.txt"], readme)


@pytest.mark.slow
def test_a_glob_that_takes_for_ever_ends_with_its_child(tmp_path: Path) -> None:
    paths = ["a" * 200 + f"{n}.txt" for n in range(50)]
    with pytest.raises(IntakeError) as caught:
        isolated(tmp_path, paths, card("'" + "*a" * 60 + "b.txt'"), seconds=3)
    assert caught.value.code in ("cpu_time_limit", "time_limit")
