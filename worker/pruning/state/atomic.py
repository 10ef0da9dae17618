"""Writing files so that they are either whole or absent, also after a power cut."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: tuple[str, str] = ("format", "pt")) -> None:
    """One safetensors file, its tensors in sorted order (so that equal tensors give equal bytes).

    metadata: one entry only, because safetensors writes several in random order. The default is what transformers
    asks of a model's files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    ordered = {name: tensors[name].contiguous() for name in sorted(tensors)}
    save_file(ordered, temporary, metadata=dict([metadata]))
    _commit(temporary, path)


def write_bytes(path: Path, content: bytes) -> None:
    write_pieces(path, [content])


def write_pieces(path: Path, pieces: Iterable[bytes]) -> None:
    """One file, made of pieces that need not all be in memory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as handle:
        handle.writelines(pieces)
    _commit(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Sorted keys and shortest exact floats: the same value always gives the same bytes."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_bytes(path, text.encode() + b"\n")


def _commit(temporary: Path, path: Path) -> None:
    with temporary.open("rb") as handle:
        os.fsync(handle.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
