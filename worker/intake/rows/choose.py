"""Which files of a dataset repository hold a configuration's split, as `datasets` would find them.

It looks at empty files of the repository's names. Code is never run, and no pattern leads out of the repository.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

from datasets import config as datasets_config
from datasets.data_files import DataFilesList, get_data_patterns, sanitize_patterns
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard

from worker.intake.rows.tables import MODULES, module_of
from worker.model_files.errors import IntakeError

_LISTED: Final = 20
"""Names shown in an error at the most."""
_MAX_PATTERN: Final = 300
_MAX_PATTERNS: Final = 10_000


def split_files(
    folder: Path, paths: Sequence[str], readme: Path | None, config: str | None, split: str
) -> dict[str, Any]:
    """`files` of a split, of one format, by the README's `configs` or else by conventional names; may be none.

    folder: an empty one. paths: of the repository. Raises IntakeError when the README has configurations, but not
    this one or not this split.
    """
    for path in paths:
        if module_of(path) is not None and path not in datasets_config.__dict__.values():
            _touch(folder, path)
    configs = _configs(readme)
    base = folder
    patterns = None
    if configs:
        name, chosen = _pick(configs, config)
        base = folder / _inside(chosen.get("data_dir") or "", name)
        patterns = _patterns(chosen.get("data_files"), name)
    elif config not in (None, "default"):
        inside = [folder / each for each in (str(config), f"data/{config}") if (folder / each).is_dir()]
        if not inside:
            return {"files": []}
        base = inside[0]
    return {"files": _find(folder, base, patterns, split)}


def _touch(folder: Path, path: str) -> None:
    parts = PurePosixPath(path).parts
    if path.startswith("/") or ".." in parts or len(path) > 1000 or "\0" in path:
        return
    try:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    except OSError:  # no name that a disk takes
        return


def _configs(readme: Path | None) -> dict[str, dict[str, Any]]:
    if readme is None:
        return {}
    try:
        card = DatasetCard(readme.read_text(encoding="utf-8", errors="replace"), ignore_metadata_errors=False)
        found = card.data.get(MetadataConfigs.FIELD_NAME)
        plain = [{k: v for k, v in each.items() if k != "features"} for each in found] if found else None
        card.data[MetadataConfigs.FIELD_NAME] = [{"config_name": "default", **each} for each in plain or ()]
        return dict(MetadataConfigs.from_dataset_card_data(card.data))
    except Exception as error:  # the README may say anything
        raise _invalid("its configs are not what the hub takes") from error


def _pick(configs: dict[str, dict[str, Any]], config: str | None) -> tuple[str, dict[str, Any]]:
    names = [name for name, each in configs.items() if each.get("default") is True or name == "default"]
    name = config or (names[0] if names else next(iter(configs)) if len(configs) == 1 else None)
    if name not in configs:
        raise _unknown("config", configs)
    return name, configs[name]


def _patterns(files: Any, name: str) -> dict[str, list[str]] | None:
    if files is None:
        return None
    try:
        found = sanitize_patterns(files)
    except (TypeError, ValueError) as error:
        raise _invalid(f"data_files of {name[:60]}") from error
    if sum(map(len, found.values())) > _MAX_PATTERNS:
        raise _invalid(f"data_files of {name[:60]} are too many")
    return {str(split): [_inside(path, name) for path in paths] for split, paths in found.items()}


def _find(folder: Path, base: Path, patterns: dict[str, list[str]] | None, split: str) -> list[str]:
    try:
        every = patterns if patterns is not None else get_data_patterns(str(base))
    except FileNotFoundError:
        return []
    if split not in every:
        if patterns is None:
            return []
        raise _unknown("split", every)
    try:
        files = DataFilesList.from_patterns(every[split], base_path=str(base), allowed_extensions=list(MODULES))
    except FileNotFoundError:
        return []
    found = sorted({Path(file).relative_to(folder).as_posix() for file in files})
    return _one_format(found)


def _one_format(paths: list[str]) -> list[str]:
    """The paths of the first format that has any: a split is not made up of several."""
    for module in ("parquet", "json", "csv", "text"):
        found = [path for path in paths if module_of(path) == module]
        if found:
            return found
    return []


def _inside(path: Any, name: str) -> str:
    """A relative path or glob. An address, or a way out of the repository, is refused and never followed."""
    if not isinstance(path, str) or len(path) > _MAX_PATTERN or not (path == "" or path.isprintable()):
        raise _invalid(f"a path of data_files of {name[:60]} is not a short text")
    if ":" in path or "\\" in path or path.startswith(("/", "~")) or ".." in PurePosixPath(path).parts:
        raise IntakeError(
            "data_files_path",
            "README.md names a data file by an address or outside of its repository; only the dataset's own files "
            "are read.",
            "/hub/id",
        )
    return path.removeprefix("./").strip("/") if path != "." else ""


def _invalid(why: str) -> IntakeError:
    return IntakeError("dataset_card_invalid", f"The dataset's README.md cannot be used: {why}.", "/hub/id")


def _unknown(what: str, known: Any) -> IntakeError:
    names = sorted(map(str, known))
    shown = ", ".join(name[:60] for name in names[:_LISTED]) or "none"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return IntakeError(f"{what}_not_found", f"The dataset's {what}s are: {shown}{more}.", f"/hub/{what}")
