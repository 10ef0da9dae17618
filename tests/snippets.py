"""The documentation's snippets, each named by its page, the heading that it stands below, and its number there."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
PROGRAMS: Final = {"bash", "sh", "shell", "python", "yaml", "dockerfile", "sql", "javascript", "typescript"}
"""Languages of what can be run; others show data."""


@dataclass(frozen=True)
class Snippet:
    """A fenced block. place: such as `docs/api.md#A receiver`, with `/2` behind it for the second one there."""

    place: str
    language: str
    code: str


def pages() -> list[Path]:
    """All pages of the documentation."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def snippets(page: Path) -> list[Snippet]:
    """The page's blocks that could be run, in their order."""
    found: list[Snippet] = []
    heading, counted = "", dict[str, int]()
    blocks = re.compile(
        r"^#{1,6} (?P<heading>[^\n]+)$|^(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^ *```$", re.M | re.S
    )
    for match in blocks.finditer(page.read_text()):
        if match["heading"]:
            heading = match["heading"].strip()
        elif match["language"] in PROGRAMS:
            place = f"{page.relative_to(ROOT)}#{heading}"
            counted[place] = counted.get(place, 0) + 1
            number = f"/{counted[place]}" if counted[place] > 1 else ""
            code = re.sub(f"^{match['indent']}", "", match["code"], flags=re.M)
            found.append(Snippet(place + number, match["language"], code))
    return found


def snippet(page: str, place: str) -> str:
    """The code of one. page: below docs, or README.md. place: heading, and number where that is not 1."""
    path = ROOT / page if page == "README.md" else ROOT / "docs" / page
    wanted = f"{path.relative_to(ROOT)}#{place}"
    return next(each.code for each in snippets(path) if each.place == wanted)
