"""What a hub dataset's README says about its files: the `configs` of its YAML head, as data and no more."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

import yaml  # type: ignore[import-untyped]

from worker.model_files.errors import IntakeError

CARD: Final = "README.md"
CARD_BYTES: Final = 4 * 2**20
MAX_PATTERN: Final = 300
MAX_DEPTH: Final = 100
MAX_NODES: Final = 200_000
"""Maps, lists and scalars in `configs`, with every alias written out."""
MAX_TEXT: Final = 1000
"""Characters of one of them: some kinds of numbers take time quadratic in their digits."""


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
        configs = _load_configs(head.group(1))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise invalid("its head is not YAML") from error
    return [_config(entry) for entry in configs] if isinstance(configs, list) else []


def invalid(why: str) -> IntakeError:
    """The error of a README that says what cannot be used."""
    return IntakeError("dataset_card_invalid", f"The dataset's {CARD} cannot be used: {why}.", "/hub/id")


_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _load_configs(head: str) -> Any:
    """The value of `configs` alone, and nothing built before it is known to be small."""
    _check_depth(head)
    loader = _LOADER(head)
    try:
        root = loader.get_single_node()
        pairs = root.value if isinstance(root, yaml.MappingNode) else []
        found = [value for key, value in pairs if key.value == "configs"]
        if not found:
            return None
        _check_size(found[-1])
        return loader.construct_document(found[-1])
    finally:
        loader.dispose()


def _check_depth(head: str) -> None:
    """Refuse what is so deep that libyaml, which follows it down its own stack, would crash the process."""
    depth = 0
    for event in yaml.parse(head, Loader=_LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise invalid("its head is too deep")


def _check_size(node: Any) -> None:
    """Refuse what is large when written out: with aliases, a few lines can mean millions of paths."""
    seen, waiting = 0, [node]
    while waiting:
        node, seen = waiting.pop(), seen + 1
        if isinstance(node, yaml.MappingNode):
            waiting.extend(part for pair in node.value for part in pair)
        elif isinstance(node, yaml.SequenceNode):
            waiting.extend(node.value)
        elif len(node.value) > MAX_TEXT:
            raise invalid("a text in its configs is too long")
        if seen + len(waiting) > MAX_NODES:
            raise invalid("its configs are too large")


def _config(entry: Any) -> CardConfig:
    if not isinstance(entry, dict):
        raise invalid("an entry of configs is not a map")
    name = entry.get("config_name", "default")
    if not isinstance(name, str):
        raise invalid("a config_name is not a text")
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
        found: dict[str, list[str]] = {}
        for entry in files:
            found.setdefault(str(entry.get("split", "train")), []).extend(_paths(entry.get("path")))
        return {split: tuple(paths) for split, paths in found.items()}
    return {"train": _paths(files)}


def _paths(value: Any) -> tuple[str, ...]:
    return tuple(_inside(path) for path in (value if isinstance(value, list) else [value]))


def _inside(path: Any) -> str:
    """A relative path or glob. An address, or a way out of the repository, is refused and never followed."""
    if not isinstance(path, str) or not path or len(path) > MAX_PATTERN or not path.isprintable():
        raise invalid("a path of data_files is not a short text")
    if ":" in path or "\\" in path or path.startswith(("/", "~")) or ".." in PurePosixPath(path).parts:
        raise IntakeError(
            "data_files_path",
            f"{CARD} names a data file by an address or outside of its repository; only the dataset's own files "
            "are read.",
            "/hub/id",
        )
    return path.removeprefix("./")
