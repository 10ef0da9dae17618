"""Whole models: every safetensors file of a folder packed or unpacked, every other file copied."""

import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from secateur import strict_json
from secateur.packed.base import Base
from secateur.packed.format import PREFIX, PackError, printable
from secateur.packed.read import unpack_file
from secateur.packed.write import pack_file

SUFFIX: Final = ".safetensors"
INDEX: Final = "model.safetensors.index.json"
_INDEX_BYTES: Final = 32 * 2**20
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}", re.ASCII)

OnLeft = Callable[[str], None]
"""Called with the name of each file or folder that is left where it is; no terminal obeys anything in it."""


def packed_name(name: str) -> str:
    """What a file of a dense folder is called in a packed one. The index has another name, too: else transformers
    would look for what it names."""
    return PREFIX + name if name.endswith(SUFFIX) or name == INDEX else name


def dense_name(name: str) -> str:
    """What a file of a packed folder is called in a dense one."""
    dense = name.removeprefix(PREFIX)
    return dense if packed_name(dense) == name else name


def pack_folder(source: Path, target: Path, base: Base | None = None, on_left: OnLeft = lambda name: None) -> None:
    """The packed form of a folder's model in a new folder, whole or not at all. base: see `pack_file`.

    Raises PackError, also for weights that would be left behind.
    """
    names, left = _contents(source)
    weights = [name for name in names if name.endswith(SUFFIX)]
    if not weights:
        raise PackError(f"there are no safetensors files in {source}; name the folder of the model, as JOB/model")
    if packed := [name for name in weights if name.startswith(PREFIX)]:
        raise PackError(f"{source} is packed already: it has {packed[0]}")
    _check_left(left)
    _check_index(source / INDEX, weights)
    _check_names(names, packed_name)
    with _whole_folder(target) as folder:
        for name in names:
            if name in weights:
                pack_file(source / name, folder, base)
            else:
                shutil.copyfile(source / name, folder / packed_name(name))
    for path in left:
        on_left(printable(path.name))


def unpack_folder(
    source: Path, target: Path, base: Base | None = None, on_left: OnLeft = lambda name: None
) -> None:
    """The dense folder of a packed one in a new folder, each file with the bytes that were packed, whole or not at
    all. Raises PackError, also for weights that are not packed."""
    packed = packed_files(source)
    names, left = _contents(source)
    if plain := [name for name in names if name.endswith(SUFFIX) and name not in packed]:
        raise PackError(f"{source} has {plain[0]} beside packed files, which is not packed: take it out")
    _check_left(left)
    _check_names(names, dense_name)
    with _whole_folder(target) as folder:
        for name in names:
            if name in packed:
                unpack_file(source / name, folder, base)
            else:
                shutil.copyfile(source / name, folder / dense_name(name))
    for path in left:
        on_left(printable(path.name))


def packed_files(source: Path) -> list[str]:
    """The packed files of a folder, all that its index names. Raises PackError."""
    names, _ = _contents(source)
    packed = [name for name in names if name.startswith(PREFIX) and name.endswith(SUFFIX)]
    if not packed:
        raise PackError(f"there are no packed files in {source}; name the folder that has {PREFIX}….safetensors")
    _check_index(source / (PREFIX + INDEX), packed, PREFIX)
    return packed


def _check_index(index: Path, weights: Sequence[str], prefix: str = "") -> None:
    """Every file that an index names is there. prefix: what the names of the files have more."""
    if index.is_file() and (missing := {prefix + name for name in _indexed(index)} - set(weights)):
        raise PackError(f"{min(missing)} is missing, which {index} names; fetch it again")


def _indexed(index: Path) -> set[str]:
    """The safetensors files that an index names."""
    with index.open("rb") as file:
        data = file.read(_INDEX_BYTES + 1)
    try:
        found: Any = strict_json.loads(data) if len(data) <= _INDEX_BYTES else None
    except (ValueError, RecursionError):
        found = None
    weight_map = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise PackError(f"{index.name} is no index of safetensors files; fetch it again")
    return set(weight_map.values())


def _check_left(left: Sequence[Path]) -> None:
    """No weights are among what is left where it is."""
    for path in left:
        inside = path.rglob("*" + SUFFIX) if path.is_dir() else [path]
        if found := next((each for each in inside if each.name.endswith(SUFFIX) and not each.is_dir()), None):
            raise PackError(
                f"{found} would be left behind: a model's safetensors files are plain files of its own folder, "
                "named with A-Z, a-z, 0-9, _, . and -; rename it or take it out"
            )


def _check_names(names: Sequence[str], renamed: Callable[[str], str]) -> None:
    """No two files become one, and no file becomes what is left where it is."""
    taken: dict[str, str] = {}
    for name in names:
        if not _NAME.fullmatch(renamed(name)):
            raise PackError(f"{name} would become {renamed(name)}, which is no name for it; rename it")
        if (other := taken.setdefault(renamed(name), name)) != name:
            raise PackError(f"{other} and {name} would both become {renamed(name)}; take one of them out")


def _contents(folder: Path) -> tuple[list[str], list[Path]]:
    """The plain files of a folder, and what is left where it is: hidden files, folders, names that no hub has."""
    if not folder.is_dir():
        raise PackError(f"{folder} is no folder")
    taken: list[str] = []
    left: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and _NAME.fullmatch(path.name):
            taken.append(path.name)
        else:
            left.append(path)
    return taken, left


@contextmanager
def _whole_folder(target: Path) -> Iterator[Path]:
    """A folder to fill that is the target once the body has ended well, and else is gone.

    An empty folder that is there already stays the same one: it may be a mount, or where a shell is.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise PackError(f"{target} is there already; name a folder that is new or empty")
    new = not target.exists()
    part = (target.parent if new else target) / f".{secrets.token_hex(8)}.part"
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise PackError(f"{target} cannot be made: {error.strerror}") from error
    try:
        yield part
        if new:
            part.rename(target)
        else:
            for path in part.iterdir():
                path.rename(target / path.name)
            part.rmdir()
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
