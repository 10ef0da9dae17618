"""What a dataset's README may say about its files."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from worker.intake.dataset_card import CardConfig, glob_expression, read_card
from worker.intake.errors import IntakeError


def card(folder: Path, configs: Any) -> list[CardConfig]:
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n# Title\n---\n")
    return read_card(folder / "README.md")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ("a.txt", {"train": ("a.txt",)}),
        (["a.txt", "b.txt"], {"train": ("a.txt", "b.txt")}),
        ({"test": "a.txt"}, {"test": ("a.txt",)}),
        (
            [{"split": "test", "path": ["a", "./b"]}, {"split": "dev", "path": "c"}],
            {"test": ("a", "b"), "dev": ("c",)},
        ),
        (None, None),
    ],
)
def test_every_form_of_data_files(files: Any, expected: Any, tmp_path: Path) -> None:
    config = card(tmp_path, [{"config_name": "en", "data_files": files, "data_dir": "data/en/"}])[0]
    assert (config.name, config.folder, config.patterns) == ("en", "data/en", expected)


@pytest.mark.parametrize(
    "text", ["", "# no head", "---\nlicense: mit\n---\n", "---\nconfigs: none\n---\n", "---\n- 1\n---\n"]
)
def test_a_readme_without_configs_says_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(text)
    assert read_card(tmp_path / "README.md") == []


@pytest.mark.parametrize(
    "path",
    [
        "http://10.0.0.1/x.parquet",
        "hf://datasets/a/b/x",
        "file:///etc/passwd",
        "../x",
        "a/../../x",
        "/etc/x",
        "~/x",
        "a\\b",
    ],
)
@pytest.mark.parametrize("place", ["data_files", "data_dir"])
def test_paths_that_leave_the_repository_are_refused(path: str, place: str, tmp_path: Path) -> None:
    with pytest.raises(IntakeError) as caught:
        card(tmp_path, [{"config_name": "default", place: path}])
    assert caught.value.code == "data_files_path"


@pytest.mark.parametrize(
    "head", ["a: [", "configs:\n- 1", "configs:\n- data_files: {train: 3}", "a: !!python/name:os.system x"]
)
def test_a_malformed_head_is_refused(head: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"---\n{head}\n---\n")
    with pytest.raises(IntakeError) as caught:
        read_card(tmp_path / "README.md")
    assert caught.value.code == "dataset_card_invalid"


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("data/train-*", "data/train-00000-of-00002.parquet", True),
        ("data/*", "data/deep/x", False),
        ("data/**", "data/deep/x", True),
        ("**/x.txt", "x.txt", True),
        ("**/x.txt", "a/b/x.txt", True),
        ("a?.txt", "ab.txt", True),
        ("a[0-3].txt", "a2.txt", True),
        ("a[!0-3].txt", "a2.txt", False),
        ("a.txt", "abtxt", False),
        ("a(b)+.txt", "a(b)+.txt", True),
        ("a[.txt", "a[.txt", True),
    ],
)
def test_globs(pattern: str, path: str, matches: bool) -> None:
    assert (glob_expression(pattern).fullmatch(path) is not None) is matches


@pytest.mark.parametrize("pattern", ["*a" * 20, "a[9-0]"])
def test_globs_that_cost_too_much_or_make_no_sense_are_refused(pattern: str) -> None:
    with pytest.raises(IntakeError):
        glob_expression(pattern)
