"""Commands that the documentation shows exist, with the options it gives them."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from secateur.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def in_blocks() -> list[str]:
    """Whole command lines: those of the pages' bash blocks."""
    blocks = [block for page in PAGES for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.S)]
    return [line for block in blocks for line in block.splitlines() if line.startswith("secateur ")]


def in_sentences() -> list[str]:
    """Commands named in running text, which may leave out what they are asked about."""
    texts = [re.sub(r"```.*?```", "", page.read_text(), flags=re.S) for page in PAGES]
    return sorted({" ".join(found.split()) for text in texts for found in re.findall(r"`(secateur [^`]*)`", text)})


def resolve(line: str) -> tuple[Any, list[str]]:
    """The command that a line calls, and its arguments."""
    command: Any = get_command(app)
    words = shlex.split(line, comments=True)[1:]
    while getattr(command, "commands", None):
        assert words, line
        assert words[0] in command.commands, line
        command = command.commands[words.pop(0)]
    return command, words


@pytest.mark.parametrize("line", in_blocks())
def test_a_command_line_is_one(line: str) -> None:
    command, words = resolve(line)
    with command.make_context(command.name, words):
        """Raises when an option is unknown, its value impossible, or an argument missing."""


@pytest.mark.parametrize("line", in_sentences())
def test_a_named_command_has_its_options(line: str) -> None:
    command, words = resolve(line)
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {word.partition("=")[0] for word in words if word.startswith("-")} <= known


def test_there_are_such_lines() -> None:
    assert len(in_blocks()) > 15
    assert len(in_sentences()) > 5
