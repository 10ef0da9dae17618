"""A Hugging Face checkpoint on disk: which tensors, in which files, read a few at a time."""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from worker.pruning.errors import UserError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
"""The dtypes a matrix may have to be pruned; others (integers, 8-bit floats) mean a quantised checkpoint."""


@dataclass(frozen=True)
class TensorInfo:
    """One tensor's place, shape and dtype (safetensors' own word for it, such as BF16)."""

    name: str
    file: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int


class Checkpoint:
    """The tensors of a folder. Nothing is kept in memory but their names and shapes."""

    def __init__(self, folder: Path, tensors: dict[str, TensorInfo]) -> None:
        self.folder = folder
        self.tensors = tensors

    @classmethod
    def open(cls, folder: Path) -> "Checkpoint":
        """Read the index, or the single file, and every header. Raises UserError for what is not a checkpoint."""
        files = _files(folder)
        tensors: dict[str, TensorInfo] = {}
        for file, expected in files.items():
            for info in _headers(folder, file):
                if info.name in tensors:
                    raise UserError("invalid_checkpoint", f"tensor {info.name} is in two files")
                tensors[info.name] = info
            missing = expected - tensors.keys()
            if missing:
                raise UserError(
                    "invalid_checkpoint", f"the index names {min(missing)} in {file}, which has it not"
                )
        return cls(folder, tensors)

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The named tensors as stored, in memory of their own."""
        by_file: dict[str, list[str]] = defaultdict(list)
        for name in names:
            by_file[self.tensors[name].file].append(name)
        found: dict[str, Tensor] = {}
        for file, wanted in by_file.items():
            with safe_open(self.folder / file, framework="pt") as reader:
                for name in wanted:
                    # A copy: the reader's memory may be a map of the file, which goes away with it.
                    found[name] = reader.get_tensor(name).clone()
        return found


def read_file(path: Path) -> dict[str, Tensor]:
    """Every tensor of one safetensors file."""
    with safe_open(path, framework="pt") as reader:
        return {name: reader.get_tensor(name).clone() for name in reader.keys()}  # noqa: SIM118 - not a mapping


def read_metadata(path: Path) -> dict[str, str]:
    """The free metadata of one safetensors file."""
    with safe_open(path, framework="pt") as reader:
        return dict(reader.metadata() or {})


def _files(folder: Path) -> dict[str, set[str]]:
    """File name → the tensors the index promises in it (nothing promised without an index)."""
    index = folder / INDEX
    if not index.is_file():
        if not (folder / SINGLE).is_file():
            raise UserError("invalid_checkpoint", f"the model has neither {SINGLE} nor {INDEX}")
        return {SINGLE: set()}
    try:
        weight_map = json.loads(index.read_text("utf-8"))["weight_map"]
        entries = [(str(name), file) for name, file in weight_map.items()]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError("invalid_checkpoint", f"{INDEX} is not an index with a weight_map") from None
    files: dict[str, set[str]] = defaultdict(set)
    for name, file in entries:
        # The index is the user's: a name that leaves the folder must not reach the file system.
        if (
            not isinstance(file, str)
            or file != Path(file).name
            or "\\" in file
            or not file.endswith(".safetensors")
        ):
            raise UserError("invalid_checkpoint", f"{INDEX}: {file!r} is not a plain .safetensors file name")
        if not (folder / file).is_file():
            raise UserError("invalid_checkpoint", f"{INDEX} names {file}, which is missing")
        files[file].add(name)
    return dict(files)


def _bits(dtype: str) -> int:
    """Width of a safetensors dtype: the first number in its name (F32, BF16, F8_E4M3, I64); BOOL is a byte."""
    number = re.search(r"\d+", dtype)
    return int(number.group()) if number else 8


def _headers(folder: Path, file: str) -> list[TensorInfo]:
    try:
        with safe_open(folder / file, framework="pt") as reader:
            found = []
            for name in reader.keys():  # noqa: SIM118 - not a mapping
                part = reader.get_slice(name)
                shape, dtype = tuple(part.get_shape()), str(part.get_dtype())
                found.append(TensorInfo(name, file, shape, dtype, math.prod(shape) * _bits(dtype) // 8))
            return found
    except SafetensorError as error:
        raise UserError("invalid_checkpoint", f"{file} is not a safetensors file: {error}") from None
