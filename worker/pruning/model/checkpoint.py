"""A Hugging Face checkpoint on disk: which tensors, in which files, read a few at a time."""

import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worker.model_files.choose import INDEX, weight_files
from worker.model_files.safetensors_header import read_header
from worker.pruning.errors import UserError, blaming
from worker.pruning.state.atomic import write_pieces

PIECE = 1 << 22
"""Bytes that are copied at once."""
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
"""The dtypes a matrix may have to be pruned; others (integers, 8-bit floats) mean a quantised checkpoint."""
STORED = DTYPES | {
    "BOOL": torch.bool,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    **{f"I{bits}": getattr(torch, f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": getattr(torch, f"uint{bits}") for bits in (8, 16, 32, 64)},
}
"""The dtypes that can be read, and handed through as they are."""

UNQUANTISED = "register the model in bfloat16, float16 or float32 (unquantised)"


@dataclass(frozen=True)
class TensorInfo:
    """One tensor's place, shape and dtype (safetensors' own word for it, such as BF16)."""

    name: str
    file: str
    shape: tuple[int, ...]
    dtype: str
    start: int
    """Where in the file its bytes begin."""
    bytes: int

    @property
    def numbers(self) -> int:
        return math.prod(self.shape)


class Checkpoint:
    """The tensors of a folder. Nothing is kept in memory but their names and shapes."""

    def __init__(self, folder: Path, tensors: dict[str, TensorInfo]) -> None:
        self.folder = folder
        self.tensors = tensors

    @classmethod
    def open(cls, folder: Path) -> "Checkpoint":
        """Read the index, or the single file, and every header. Raises UserError for what is not a checkpoint."""
        tensors: dict[str, TensorInfo] = {}
        for file in _files(folder):
            for info in _headers(folder, file):
                if info.name in tensors:
                    raise UserError("invalid_checkpoint", f"tensor {info.name} is in two files")
                tensors[info.name] = info
        return cls(folder, tensors)

    @classmethod
    def of_file(cls, path: Path) -> "Checkpoint":
        """The tensors of one safetensors file."""
        return cls(path.parent, {info.name: info for info in _headers(path.parent, path.name)})

    def read(self, names: Iterable[str], *, pinned: bool = False) -> dict[str, Tensor]:
        """The named tensors as stored, in memory of their own. pinned: page-locked, for a GPU to fetch."""
        by_file: dict[str, list[TensorInfo]] = defaultdict(list)
        for name in names:
            by_file[self.tensors[name].file].append(self.tensors[name])
        found: dict[str, Tensor] = {}
        for file, wanted in by_file.items():
            found |= _read(self.folder / file, wanted, pinned=pinned)
        return found

    def read_slice(self, name: str, index: int | None) -> Tensor:
        """The named tensor, or only what its first side has at `index`."""
        info = self.tensors[name]
        if index is not None:
            size = info.bytes // info.shape[0]
            info = replace(info, shape=info.shape[1:], start=info.start + index * size, bytes=size)
        return _read(self.folder / info.file, [info])[name]

    def copy(self, names: Iterable[str], path: Path) -> None:
        """Write the named tensors, as they are stored, into one safetensors file. Few bytes are ever in memory."""
        # The library's order: wide numbers first, so that each begins at a multiple of its width.
        infos = sorted((self.tensors[name] for name in names), key=lambda each: (-_width(each), each.name))
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for info in infos:
            offsets = [end, end := end + info.bytes]
            header[info.name] = {"dtype": info.dtype, "shape": info.shape, "data_offsets": offsets}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        copied = chain.from_iterable(self._pieces(info) for info in infos)
        write_pieces(path, chain([len(text).to_bytes(8, "little"), text], copied))

    def _pieces(self, info: TensorInfo) -> Iterator[bytes]:
        with (self.folder / info.file).open("rb") as handle:
            handle.seek(info.start)
            for begin in range(0, info.bytes, PIECE):
                wanted = min(PIECE, info.bytes - begin)
                piece = handle.read(wanted)
                if len(piece) != wanted:
                    raise OSError(f"{info.file} ended within {info.name}")
                yield piece


def _width(info: TensorInfo) -> int:
    """Bytes of one number."""
    return int(STORED[info.dtype].itemsize)


def read_file(path: Path, names: Collection[str] | None = None, *, pinned: bool = False) -> dict[str, Tensor]:
    """Tensors of one safetensors file: every one, or those of `names`. pinned: see `Checkpoint.read`."""
    infos = _headers(path.parent, path.name)
    return _read(path, [info for info in infos if names is None or info.name in names], pinned=pinned)


def _read(path: Path, wanted: list[TensorInfo], *, pinned: bool = False) -> dict[str, Tensor]:
    """Plain reads into torch's own memory.

    Not the library's: its map of a file is slower, takes a second copy and ends the process when a disk fails, and
    its other reader neither lets go of Python's lock nor aligns the memory as torch does, on which sums depend.
    """
    found = {}
    with path.open("rb") as handle:
        for info in sorted(wanted, key=lambda info: info.start):
            tensor = torch.empty(info.shape, dtype=STORED[info.dtype], pin_memory=pinned)
            handle.seek(info.start)
            if handle.readinto(tensor.reshape(-1).view(torch.uint8).numpy().data) != info.bytes:
                raise OSError(f"{path.name} ended within {info.name}")
            found[info.name] = tensor
    return found


def read_metadata(path: Path) -> dict[str, str]:
    """The free metadata of one safetensors file."""
    return read_header(path).metadata


def _files(folder: Path) -> list[str]:
    """The files that hold the model, by the rule of the intake, which is transformers' own."""
    listing = {path.name for path in folder.iterdir() if path.is_file()} if folder.is_dir() else set()
    with blaming("invalid_checkpoint", f"{INDEX} cannot be read", None):
        return weight_files(listing, folder / INDEX)


def _headers(folder: Path, file: str) -> list[TensorInfo]:
    """Every tensor of one file, by name."""
    with blaming("invalid_checkpoint", f"{file} cannot be read", None):
        header = read_header(folder / file)
    found = []
    for name, entry in header.tensors.items():
        if entry.dtype not in STORED:
            message = f"{file}: {name} has the unknown dtype {entry.dtype}: {UNQUANTISED}"
            raise UserError("invalid_checkpoint", message)
        found.append(TensorInfo(name, file, entry.shape, entry.dtype, entry.start, entry.bytes))
    return found
