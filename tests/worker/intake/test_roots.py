"""Paths below the model roots."""

from pathlib import Path

import pytest

from worker.intake.roots import resolve, root_of
from worker.model_files.errors import IntakeError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root" / "team" / "model").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    return tmp_path / "root"


def code(root: Path, path: object) -> str:
    with pytest.raises(IntakeError) as caught:
        resolve([root], path)
    assert str(root.parent) not in caught.value.message
    return caught.value.code


def test_the_first_root_that_has_the_path_gives_it(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    assert resolve([tmp_path / "absent", other, root], "team/model") == root / "team" / "model"
    assert root_of([other, root], root / "team" / "model") == root


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../secret",
        "team/../../secret",
        "~/x",
        "",
        ".",
        "a\0b",
        "a\nb",
        "..\\secret",
        None,
        3,
        "x" * 1001,
    ],
)
def test_anything_but_a_plain_relative_path_is_refused(path: object, root: Path) -> None:
    assert code(root, path) == "path_invalid"


@pytest.mark.parametrize("path", ["absent", "%2e%2e/secret", "file:/etc/passwd", "‥/secret"])
def test_what_is_not_there_is_not_found(path: str, root: Path) -> None:
    assert code(root, path) == "path_not_found"


def test_a_link_out_of_the_root_looks_like_nothing(root: Path) -> None:
    (root / "link").symlink_to(root.parent / "secret")
    assert code(root, "link") == "path_not_found"


def test_a_link_inside_the_root_is_followed(root: Path) -> None:
    (root / "link").symlink_to(root / "team")
    assert resolve([root], "link/model") == root / "team" / "model"


def test_a_sibling_with_the_roots_name_as_prefix_is_outside(root: Path) -> None:
    (root.parent / "rootlike").mkdir()
    (root / "link").symlink_to(root.parent / "rootlike")
    assert code(root, "link") == "path_not_found"
