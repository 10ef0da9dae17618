"""What a dataset's README may say about its files."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from worker.intake.dataset_card import CardConfig, read_card
from worker.model_files.errors import IntakeError


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
    "head", ["a: [", "configs:\n- 1", "configs:\n- data_files: {train: 3}", "configs: !!python/name:os.system x"]
)
def test_a_malformed_head_is_refused(head: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"---\n{head}\n---\n")
    with pytest.raises(IntakeError) as caught:
        read_card(tmp_path / "README.md")
    assert caught.value.code == "dataset_card_invalid"


def head(folder: Path, text: str) -> list[CardConfig]:
    (folder / "README.md").write_text(f"---\n{text}\n---\n")
    return read_card(folder / "README.md")


def test_only_the_configs_of_a_head_are_built(tmp_path: Path) -> None:
    text = "names: &names [a, b]\nagain: *names\nodd: !!python/name:os.system x\nconfigs:\n- config_name: en"
    assert [card.name for card in head(tmp_path, text)] == ["en"]


def test_an_alias_is_as_good_as_what_it_stands_for(tmp_path: Path) -> None:
    text = "files: &files [a.txt]\nconfigs:\n- {config_name: en, data_files: *files}"
    assert head(tmp_path, text)[0].patterns == {"train": ("a.txt",)}


PATHS = f"paths: &paths [{', '.join(['x'] * 2000)}]\n"
LAUGHS = "l0: &l0 {a: b}\n" + "".join(f"l{n + 1}: &l{n + 1} {{<<: [{f'*l{n}, ' * 9}]}}\n" for n in range(9))


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text",
    [
        f"{PATHS}configs: [{'{data_files: *paths}, ' * 2000}]",
        f"{LAUGHS}configs: [*l9]",
        "configs: &c [*c]",
        "configs: 1" + ":1" * 500_000,
        "[" * 500_000,
        "a: " + "- " * 500_000,
    ],
    ids=["aliases", "merges", "cycle", "sexagesimal", "deep", "deeper"],
)
def test_a_small_head_that_means_a_great_deal_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(IntakeError) as caught:
        head(tmp_path, text)
    assert caught.value.code == "dataset_card_invalid"
