"""Digests of files and trees."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from secateur.digests import file_sha256, tree_digest


def test_file_digest_is_sha256_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"secateur")
    assert file_sha256(path) == hashlib.sha256(b"secateur").hexdigest()


def test_tree_digest_does_not_depend_on_the_order() -> None:
    pairs = [("b", "2" * 64), ("a/c", "1" * 64)]
    assert tree_digest(pairs) == tree_digest(reversed(pairs))
    assert tree_digest(pairs) != tree_digest([("b", "1" * 64), ("a/c", "2" * 64)])


def test_tree_digest_is_what_a_shell_computes(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for name in ("report.json", "model/config.json", "model/Z.json"):
        (tmp_path / name).write_text(name)
    shell = "find * -type f | LC_ALL=C sort | xargs sha256sum | sha256sum"
    printed = subprocess.run(["sh", "-c", shell], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    paths = [path for path in tmp_path.rglob("*") if path.is_file()]
    pairs = [(str(path.relative_to(tmp_path)), file_sha256(path)) for path in paths]
    assert tree_digest(pairs) == printed.split()[0]


@pytest.mark.parametrize("pairs", [[("a", "1"), ("a", "2")], [("a\nb", "1")], [("", "1")]])
def test_ambiguous_trees_are_refused(pairs: list[tuple[str, str]]) -> None:
    with pytest.raises(ValueError, match="path"):
        tree_digest(pairs)
