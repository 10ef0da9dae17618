"""docs/security.md names a test for each defence, and each of them exists."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINES = (ROOT / "docs" / "security.md").read_text().splitlines()
DEFENCES = [
    line for line in LINES if line.startswith("| ") and line.count("|") == 4 and "tests/" in line.split("|")[3]
]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


@cache
def functions_of(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text())
    return {each.name for each in ast.walk(tree) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_line_of_a_table_of_attacks_names_its_tests() -> None:
    tables = "\n".join(LINES).split("| attack | what holds | shown by |\n|---|---|---|\n")[1:]
    rows = [row for table in tables for row in table.partition("\n\n")[0].splitlines()]
    assert len(rows) >= 20
    assert rows == DEFENCES
    for row in rows:
        shown = row.split("|")[3].strip()
        assert NAMED.sub("", shown).strip(", ") == "", row


@pytest.mark.parametrize("named", sorted({found for line in DEFENCES for found in NAMED.findall(line)}))
def test_a_named_test_exists(named: tuple[str, str]) -> None:
    path, name = named
    assert name in functions_of(path)
