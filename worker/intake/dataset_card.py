"""What a hub dataset's README says about its files: the `configs` of its YAML head, as data and no more."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import yaml  # type: ignore[import-untyped]

from worker.intake.errors import IntakeError

CARD: Final = "README.md"
CARD_BYTES: Final = 4 * 2**20
MAX_WILDCARDS: Final = 6
MAX_PATTERN: Final = 300

_WILD: Final = re.compile(r"\*\*/|\*\*|\*|\?|\[!?[^\]/\\\[]+\]")


@dataclass(frozen=True)
class CardConfig:
    """One entry of `configs`."""

    name: str
    is_default: bool
    folder: str
    """`data_dir`, or empty."""
    patterns: Mapping[str, tuple[str, ...]] | None
    """Split → globs relative to the folder; None when the conventional names are meant."""


def read_card(path: Path) -> list[CardConfig]:
    """The `configs` of a README's YAML head; empty when it has none. Raises IntakeError when it is malformed."""
    with path.open("rb") as file:
        text = file.read(CARD_BYTES).decode(errors="replace")
    head = re.match(r"---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    if head is None:
        return []
    try:
        data = yaml.load(head.group(1), Loader=_LOADER)  # noqa: S506, a safe loader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise _invalid("its head is not YAML") from error
    configs = data.get("configs") if isinstance(data, dict) else None
    return [_config(entry) for entry in configs] if isinstance(configs, list) else []


def glob_expression(pattern: str) -> re.Pattern[str]:
    """A glob over repository paths as a regular expression: `*` stays in a folder, `**` does not."""
    parts, position, wild = [], 0, 0
    for match in _WILD.finditer(pattern):
        parts.append(re.escape(pattern[position : match.start()]))
        parts.append(_wildcard(match.group()))
        position, wild = match.end(), wild + 1
    if wild > MAX_WILDCARDS:  # each one multiplies the time a match can take
        raise _invalid("a path has too many wildcards")
    try:
        return re.compile("".join(parts) + re.escape(pattern[position:]), re.DOTALL)
    except re.error as error:  # a range that runs backwards
        raise _invalid("a path is not a glob") from error


_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _wildcard(sign: str) -> str:
    if sign.startswith("["):
        body = sign[1:-1].replace("&", r"\&").replace("~", r"\~").replace("|", r"\|")
        return f"[^/{body[1:]}]" if body.startswith("!") else f"[{body}]"
    return {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}[sign]


def _config(entry: Any) -> CardConfig:
    if not isinstance(entry, dict):
        raise _invalid("an entry of configs is not a map")
    name = entry.get("config_name", "default")
    if not isinstance(name, str):
        raise _invalid("a config_name is not a text")
    folder = entry.get("data_dir")
    folder = "" if folder is None else _inside(folder).strip("/")
    files = entry.get("data_files")
    patterns = None if files is None else _patterns(files)
    return CardConfig(name, entry.get("default") is True, "" if folder == "." else folder, patterns)


def _patterns(files: Any) -> dict[str, tuple[str, ...]]:
    """Every form that the hub knows: a path, paths, a map of splits, or a list of {split, path}."""
    if isinstance(files, dict):
        return {str(split): _paths(paths) for split, paths in files.items()}
    if isinstance(files, list) and files and all(isinstance(entry, dict) for entry in files):
        found: dict[str, tuple[str, ...]] = {}
        for entry in files:
            split = str(entry.get("split", "train"))
            found[split] = found.get(split, ()) + _paths(entry.get("path"))
        return found
    return {"train": _paths(files)}


def _paths(value: Any) -> tuple[str, ...]:
    return tuple(_inside(path) for path in (value if isinstance(value, list) else [value]))


def _inside(path: Any) -> str:
    """A relative path or glob. An address, or a way out of the repository, is refused and never followed."""
    if not isinstance(path, str) or not path or len(path) > MAX_PATTERN or not path.isprintable():
        raise _invalid("a path of data_files is not a short text")
    if ":" in path or "\\" in path or path.startswith(("/", "~")) or ".." in PurePosixPath(path).parts:
        raise IntakeError(
            "data_files_path",
            f"{CARD} names a data file by an address or outside of its repository; only the dataset's own files "
            "are read.",
            "/hub/id",
        )
    return path.removeprefix("./")


def _invalid(why: str) -> IntakeError:
    return IntakeError("dataset_card_invalid", f"The dataset's {CARD} cannot be used: {why}.", "/hub/id")
