"""Which files of a dataset repository hold a configuration's split; code in it is never run."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from worker.intake.dataset_card import CardConfig
from worker.intake.globs import matching
from worker.model_files.errors import IntakeError

PARQUET: Final = (".parquet",)
LINES: Final = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".json.gz")
TEXT: Final = (".txt", ".txt.gz")

_ALIASES: Final = {"validation": ("validation", "valid", "val", "dev")}
_LISTED: Final = 20
"""Names shown in an error at the most."""


def split_files(
    paths: Sequence[str],
    cards: Sequence[CardConfig],
    config: str | None,
    split: str,
    check: Callable[[], None],
) -> list[str]:
    """Files of a split by the README's `configs`, or else by conventional names; empty when there are none.

    check: called often; raises when the work must stop.
    Raises IntakeError when the README has configurations, but not this one or not this split.
    """
    if not cards:
        return _conventional(paths, _folders(config), split)
    card = _pick(cards, config)
    if card.patterns is None:
        return _conventional(paths, (card.folder,) if card.folder else _folders(config), split)
    if split not in card.patterns:
        raise _unknown("split", card.patterns)
    prefix = f"{card.folder}/" if card.folder else ""
    return _one_format(matching([prefix + pattern for pattern in card.patterns[split]], paths, check))


def parquet_branch_files(paths: Sequence[str], config: str | None, split: str) -> list[str]:
    """Files of a split in the hub's own Parquet copy: `config/split/0000.parquet`."""
    found: dict[str, dict[str, list[str]]] = {}
    for path in paths:
        parts = path.split("/")
        if len(parts) == 3 and path.endswith(PARQUET):
            found.setdefault(parts[0], {}).setdefault(parts[1], []).append(path)
    name = config or ("default" if "default" in found else next(iter(found), ""))
    if name not in found or (config is None and name != "default" and len(found) > 1):
        raise _unknown("config", found)
    if split not in found[name]:
        raise _unknown("split", found[name])
    return sorted(found[name][split])


def _pick(cards: Sequence[CardConfig], config: str | None) -> CardConfig:
    if config is not None:
        chosen = [card for card in cards if card.name == config]
    else:
        chosen = [card for card in cards if card.is_default or card.name == "default"]
        chosen = chosen or (list(cards) if len(cards) == 1 else [])
    if not chosen:
        raise _unknown("config", [card.name for card in cards])
    return chosen[0]


def _folders(config: str | None) -> tuple[str, ...]:
    return ("data", "") if config in (None, "default") else (f"{config}", f"data/{config}")


def _conventional(paths: Sequence[str], folders: Iterable[str], split: str) -> list[str]:
    """`split-00000-of-00001.parquet`, `split/*`, `split.jsonl`…; a folder's only data file is its `train`."""
    for folder in folders:
        prefix = f"{folder}/" if folder else ""
        inside = [path[len(prefix) :] for path in paths if path.startswith(prefix)]
        for name in _ALIASES.get(split, (split,)):
            starts = (f"{name}-", f"{name}.", f"{name}/", f"{name}_")
            found = _one_format(prefix + path for path in inside if path.startswith(starts))
            if found:
                return found
        data = _one_format(prefix + path for path in inside if "/" not in path)
        if split == "train" and len(data) == 1:
            return data
    return []


def _one_format(paths: Iterable[str]) -> list[str]:
    """The paths of the first format that has any: a split is not made up of several."""
    ordered = sorted(paths)
    for endings in (PARQUET, LINES, TEXT):
        found = [path for path in ordered if path.endswith(endings) and not path.endswith("dataset_infos.json")]
        if found:
            return found
    return []


def _unknown(what: str, known: Iterable[str] | Mapping[str, object]) -> IntakeError:
    names = sorted(known)
    shown = ", ".join(name[:60] for name in names[:_LISTED]) or "none"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return IntakeError(f"{what}_not_found", f"The dataset's {what}s are: {shown}{more}.", f"/hub/{what}")
