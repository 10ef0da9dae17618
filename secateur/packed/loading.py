"""A packed folder in torch and transformers, which must be installed: the dense weights, in memory only."""

from pathlib import Path
from typing import Any, Final

import torch
import transformers

from secateur.packed.base import Base
from secateur.packed.folder import packed_files
from secateur.packed.format import PackedFile, PackedTensor, PackError, read_packed
from secateur.packed.read import dense_pieces

GENERATION: Final = "generation_config.json"
_DTYPES: Final = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "BOOL": torch.bool,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


def load_state_dict(folder: str | Path, base: str | Path | None = None) -> dict[str, torch.Tensor]:
    """Every tensor of a packed folder, dense, as it was stored, on the CPU. base: the dense model's folder, for
    masks. Raises PackError."""
    source, dense = Path(folder), Base.open(Path(base), "base") if base is not None else None
    found: dict[str, torch.Tensor] = {}
    for name in packed_files(source):
        packed = read_packed(source / name)
        found |= {tensor.name: _load(packed, tensor, dense) for tensor in packed.tensors}
    return found


def from_pretrained(
    folder: str | Path, model_class: Any = None, base: str | Path | None = None, **options: Any
) -> Any:
    """A model of transformers from a packed folder. base: see `load_state_dict`. Raises PackError.

    model_class: a model's own class, not an `Auto…`; when left out, the one that config.json names. options: of
    its `from_pretrained`, such as `dtype`.
    """
    config = options.pop("config", None) or transformers.AutoConfig.from_pretrained(folder)
    chosen = model_class or _class_of(config)
    model = chosen.from_pretrained(None, config=config, state_dict=load_state_dict(folder, base), **options)
    if (Path(folder) / GENERATION).is_file() and model.can_generate():
        model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    return model


def _class_of(config: Any) -> Any:
    for name in config.architectures or ():
        found = getattr(transformers, name, None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found
    raise PackError("config.json names no class of transformers in `architectures`: give a model_class")


def _load(packed: PackedFile, tensor: PackedTensor, base: Base | None) -> torch.Tensor:
    dtype = _DTYPES.get(tensor.dense.dtype)
    if dtype is None:
        raise PackError(f"{tensor.name} has the dtype {tensor.dense.dtype}, which torch does not read; unpack it")
    found = torch.empty(tensor.dense.shape, dtype=dtype)
    room = found.reshape(-1).view(torch.uint8).numpy().data
    end = 0
    for data in dense_pieces(packed, tensor, base):
        room[end : (end := end + len(data))] = data
    return found
