"""What a packed file says of itself, and the reader of that, which believes nothing.

A packed file is a safetensors file. Its metadata names the dense file, with that file's own header and sha256, and
for every dense tensor its form and its sha256. docs/packed.md has every field.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from secateur import strict_json
from secateur.errors import SecateurError
from secateur.safetensors_header import (
    BITS,
    LENGTH_BYTES,
    Entry,
    Header,
    HeaderError,
    parse_header,
    read_header,
)

KEY: Final = "secateur.packed"
VERSION: Final = "1"
PREFIX: Final = "packed-"
"""What the name of a packed file puts before that of the dense one, so that nothing takes it for a model's."""
BITMASK: Final = ".bitmask"
VALUES: Final = ".values"
MASK_DTYPE: Final = "U8"
Check = Callable[[], None]
"""Called at every piece; raises when the work must stop."""
_FIELDS: Final = {"file", "header", "sha256", "tensors", "base", KEY}
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def printable(text: str) -> str:
    """With a sign in place of each that a terminal could obey."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


class PackError(SecateurError):
    """A model cannot be packed, or a packed one cannot be unpacked."""

    def __init__(self, message: str) -> None:
        """message: may quote a stranger's file; what a terminal could obey of that is replaced."""
        super().__init__(printable(message))


class Form(StrEnum):
    """How a packed file has a dense tensor."""

    plain = "plain"
    """As it is, under its own name."""
    packed = "packed"
    """Bitmask and values."""
    masked = "masked"
    """Bitmask alone: the values are those of the base model."""
    base = "base"
    """Not at all: it is the base model's."""


PARTS: Final = {
    Form.plain: ("",),
    Form.packed: (BITMASK, VALUES),
    Form.masked: (BITMASK,),
    Form.base: (),
}
"""What the names of a tensor's parts add to its own."""


@dataclass(frozen=True)
class PackedTensor:
    """One dense tensor. dense: its dtype, shape, and place in the dense file; sha256: of its bytes there."""

    name: str
    form: Form
    sha256: str
    dense: Entry

    @property
    def mask_bytes(self) -> int:
        return (self.dense.elements + 7) // 8


@dataclass(frozen=True)
class PackedFile:
    """A packed file whose header fits. parts: where its tensors lie; header: the dense file's, as text.

    tensors: in the order of their places in the dense file. base: what names the base model, or empty.
    """

    path: Path
    file: str
    header: bytes
    sha256: str
    tensors: tuple[PackedTensor, ...]
    base: str
    parts: Mapping[str, Entry]


def number_bytes(dtype: str) -> int | None:
    """Bytes of one number; None of those that share a byte."""
    bits = BITS[dtype]
    return bits // 8 if bits % 8 == 0 else None


def read_packed(path: Path) -> PackedFile:
    """What a packed file says, held against what it has. Raises PackError."""
    try:
        header = read_header(path)
        fields = header.metadata
        if fields.get(KEY) != VERSION:
            raise PackError(f"{path.name} is not a packed file of version {VERSION}")
        if fields.keys() != _FIELDS:
            raise _broken(path, "its metadata does not have exactly the fields of the form")
        if path.name != PREFIX + fields["file"]:
            raise _broken(path, f"it is of another file: its name must be {PREFIX} and that file's")
        dense = parse_header(fields["header"].encode(), fields["file"])
        forms = strict_json.loads(fields["tensors"].encode())
    except HeaderError as error:
        raise PackError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise _broken(path, "its list of tensors is not strict JSON") from error
    if not isinstance(forms, dict) or forms.keys() != dense.tensors.keys():
        raise _broken(path, "its list of tensors is not that of the dense file's header")
    if not _is_sha256(fields["sha256"]):
        raise _broken(path, "its sha256 is none")
    tensors = [_tensor(path, name, forms[name], entry) for name, entry in dense.tensors.items()]
    _check_parts(path, tensors, header)
    return PackedFile(
        path=path,
        file=fields["file"],
        header=fields["header"].encode(),
        sha256=fields["sha256"],
        tensors=tuple(sorted(tensors, key=lambda tensor: (tensor.dense.start, tensor.dense.bytes))),
        base=fields["base"],
        parts=header.tensors,
    )


def _tensor(path: Path, name: str, value: Any, dense: Entry) -> PackedTensor:
    known = isinstance(value, dict) and value.keys() == {"form", "sha256"}
    if not known or value["form"] not in list(Form) or not _is_sha256(value["sha256"]):
        raise _broken(path, f"{name} does not have exactly a known form and a sha256")
    return PackedTensor(name, Form(value["form"]), value["sha256"], dense)


def _check_parts(path: Path, tensors: list[PackedTensor], header: Header) -> None:
    """Every part is there, with the size that the dense tensor asks for, and no other one."""
    wanted: set[str] = set()
    for tensor in tensors:
        names = [tensor.name + part for part in PARTS[tensor.form]]
        wanted.update(names)
        if missing := [name for name in names if name not in header.tensors]:
            raise _broken(path, f"{missing[0]} is missing")
        for name in names:
            if not _fits(tensor, name.removeprefix(tensor.name), header.tensors[name]):
                raise _broken(path, f"{name} does not fit the tensor that it is part of")
    if more := sorted(header.tensors.keys() - wanted):
        raise _broken(path, f"{more[0]} is part of no tensor")


def _fits(tensor: PackedTensor, part: str, found: Entry) -> bool:
    dense = tensor.dense
    if part == BITMASK:
        return (found.dtype, found.shape) == (MASK_DTYPE, (tensor.mask_bytes,)) and bool(number_bytes(dense.dtype))
    if part == VALUES:
        return found.dtype == dense.dtype and len(found.shape) == 1 and found.elements <= dense.elements
    return (found.dtype, found.shape) == (dense.dtype, dense.shape)


def dense_prefix(header: bytes) -> bytes:
    """The first bytes of the dense file: the length of its header, and that."""
    return len(header).to_bytes(LENGTH_BYTES, "little") + header


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _broken(path: Path, why: str) -> PackError:
    return PackError(f"{path.name} is not a whole packed file: {why}; fetch it again")
