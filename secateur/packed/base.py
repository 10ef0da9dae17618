"""The dense model that masks are of: its tensors by name, wherever its files have them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from secateur.digests import file_sha256, tree_digest
from secateur.packed.format import PackError
from secateur.safetensors_header import Entry, HeaderError, read_header


@dataclass(frozen=True)
class Base:
    """A folder's tensors. name: what it is recorded by, such as `model:` and the registered model's digest."""

    name: str
    tensors: Mapping[str, tuple[Path, Entry]]

    @classmethod
    def open(cls, folder: Path, name: str = "") -> Self:
        """All safetensors files of a folder. Without a name it is called by the digest of those files, which are
        then read. Raises PackError."""
        paths = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
        if not paths:
            raise PackError(f"there are no safetensors files in {folder}; name the folder of the dense model")
        found: dict[str, tuple[Path, Entry]] = {}
        try:
            for path in paths:
                found |= {tensor: (path, entry) for tensor, entry in read_header(path).tensors.items()}
        except HeaderError as error:
            raise PackError(str(error)) from error
        return cls(name or weights_name(paths), found)

    def find(self, name: str, like: Entry) -> tuple[Path, Entry] | None:
        """The tensor of that name, dtype and shape."""
        path, entry = self.tensors.get(name, (None, None))
        if path is None or entry is None or (entry.dtype, entry.shape) != (like.dtype, like.shape):
            return None
        return path, entry


def weights_name(paths: list[Path]) -> str:
    """What a folder is called by its weights: the digest of their sorted `sha256sum` lines."""
    return f"weights:{tree_digest((path.name, file_sha256(path)) for path in paths)}"
