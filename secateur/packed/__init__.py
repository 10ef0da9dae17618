"""The packed form of a pruned model: for each tensor a bitmask and the numbers that are not zero (docs/packed.md).

Needs NumPy alone (`pip install secateur[packed]`); `secateur.packed.loading` brings a packed folder into torch and
transformers. Memory is bounded by a piece of a tensor, never by a file.
"""

from secateur.packed.base import Base
from secateur.packed.folder import pack_folder, unpack_folder
from secateur.packed.format import PackError
from secateur.packed.read import unpack_file
from secateur.packed.write import pack_file

__all__ = ["Base", "PackError", "pack_file", "pack_folder", "unpack_file", "unpack_folder"]
