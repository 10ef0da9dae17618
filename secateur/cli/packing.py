"""Commands about files on this computer: pack, unpack. They need no server."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from secateur.cli.context import AsJson, errors, say
from secateur.errors import SecateurError

Source = Annotated[Path, typer.Argument(metavar="FOLDER", help="The model's files, as JOB/model.")]
Target = Annotated[Path, typer.Argument(metavar="TARGET", help="A folder that is new or empty.")]


def pack(
    source: Source,
    target: Target,
    base: Annotated[
        Path | None, typer.Option(help="The dense model's folder: of weights that it has, only masks are written.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a pruned model in its packed form: a bitmask, and the numbers that are not zero."""
    packed, left = _packed(), list[str]()
    packed.pack_folder(source, target, packed.Base.open(base) if base is not None else None, left.append)
    before, after = _weights(source), _weights(target)
    _name(left)
    found = {"folder": str(target), "bytes": after, "dense_bytes": before, "left_out": left}
    say(as_json, found, f"{target}: weights of {after:,} bytes, {after / before:.3f} of {before:,}")


def unpack(
    source: Source,
    target: Target,
    base: Annotated[Path | None, typer.Option(help="The dense model's folder, of which the masks are.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write the dense model of a packed one: the same bytes as before, each file checked by its sha256."""
    packed, left = _packed(), list[str]()
    packed.unpack_folder(source, target, packed.Base.open(base, "base") if base is not None else None, left.append)
    size = _weights(target)
    _name(left)
    found = {"folder": str(target), "bytes": size, "left_out": left}
    say(as_json, found, f"{target}: weights of {size:,} bytes, all as they were packed")


def _name(left: Sequence[str]) -> None:
    for name in left:
        errors.print(f"left out: {name}")


def _packed() -> Any:
    """The module, which needs NumPy."""
    try:
        from secateur import packed
    except ModuleNotFoundError as error:
        raise SecateurError("this needs NumPy: pip install 'secateur[packed]'") from error
    return packed


def _weights(folder: Path) -> int:
    """Bytes of a folder's safetensors files."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
