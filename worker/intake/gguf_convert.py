"""Turns a GGUF file into a safetensors folder, in a child process (`worker.isolation`).

Nothing is invented and nothing lost: each key of the architecture and each tensor is used, or the file is refused.
"""

import os
import re
import traceback
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from worker.intake.gguf_keys import CODE, WAY_OUT, settle
from worker.intake.gguf_rope import FACTORS, settle_rope
from worker.intake.gguf_tokenizer import check_ids, check_tokenizer, doubts, settle_tokenizer
from worker.intake.licence import CARD, write_card
from worker.machine_errors import is_out_of_memory
from worker.model_files.errors import IntakeError, no_room

BYTES: Final = {"bfloat16": 2, "float16": 2, "float32": 4}
"""Of one weight, once it is converted."""

_SYSTEM_ERRORS: Final = (MemoryError, ImportError, OSError)
_UNNEEDED: Final = re.compile(r"blk\.\d+\.attn_rot_embd\.weight")
"""Constants of old files, which llama.cpp skips too."""
_PATH: Final = re.compile(r"(?:/[^\s/'\"]+){2,}")


def answer(request: Mapping[str, Any], _tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The `warnings` of the converted model. request: `source`, `file`, `target`, `dtype`, `threads`, `room`.

    Raises IntakeError, and what is no fault of the file.
    """
    try:
        return {"warnings": convert_file(request)}
    except (IntakeError, *_SYSTEM_ERRORS):
        raise
    except Exception as error:  # transformers and gguf raise whatever comes when they do not know a file
        if is_out_of_memory(error):
            raise
        traceback.print_exc()
        raise IntakeError(
            CODE,
            f"The installed transformers cannot convert this GGUF file ({_reason(error)}); {WAY_OUT}.",
        ) from None


def _reason(error: Exception) -> str:
    """What a library said, in one line, without paths."""
    text = _PATH.sub("…", " ".join(str(error).split()))
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def convert_file(request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Convert as `main` is asked to; the model's warnings. Raises IntakeError, and what the libraries raise."""
    import gguf

    source, file, target = request["source"], request["file"], Path(request["target"])
    # transformers parses the file three times and builds the same table of names once a module.
    gguf.GGUFReader = cache(gguf.GGUFReader)
    gguf.get_tensor_name_map = cache(gguf.get_tensor_name_map)
    reader = gguf.GGUFReader(os.path.join(source, file))  # a broken file needs no torch to be refused
    metadata = {key: field.contents() for key, field in reader.fields.items()}
    _refuse_pieces(metadata, reader)
    check_ids(metadata)
    weights = sum(int(tensor.n_elements) for tensor in reader.tensors)
    if (size := weights * BYTES[request["dtype"]]) > request["room"]:
        raise no_room(size)

    import torch
    import transformers
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(int(request["threads"]))
    dtype = getattr(torch, request["dtype"])
    used = _keys_used(metadata, tuple(tensor.name for tensor in reader.tensors))
    config = AutoConfig.from_pretrained(source, gguf_file=file)
    settle(config, metadata, used)
    settle_rope(config, metadata, _factors(reader), used)
    options: dict[str, Any] = {"gguf_file": file, "dtype": dtype, "config": config, "output_loading_info": True}
    options["ignore_mismatched_sizes"] = True  # refused below, by name
    # Newer versions may keep the weights packed in GGUF's blocks, which nothing but they can read.
    if packed := getattr(transformers, "GgufConfig", None):
        options["quantization_config"] = packed(dequantize=True)
    names = _watch_names()
    model, report = AutoModelForCausalLM.from_pretrained(source, **options)
    _forget_quantisation(model)
    _check_shapes(report, names)
    _check_tensors(reader, report, names, set(model._tied_weights_keys or ()))
    model.to(dtype)
    _check_finite(model, reader, names, request["dtype"])
    model.save_pretrained(target)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file)
    settle_tokenizer(tokenizer, metadata)
    tokenizer.save_pretrained(target)
    check_tokenizer(AutoTokenizer.from_pretrained(target), metadata)
    write_card(metadata, target / CARD)
    return doubts(metadata)


def _refuse_pieces(metadata: Mapping[str, Any], reader: Any) -> None:
    count = int(metadata.get("split.count", 0))
    if count > 1:
        raise IntakeError(
            "gguf_in_pieces",
            f"This is piece {int(metadata.get('split.no', 0)) + 1} of {count} of a model. Join them with "
            "`llama-gguf-split --merge FIRST_PIECE.gguf WHOLE.gguf` and register the whole.",
        )
    names = [tensor.name for tensor in reader.tensors]
    if not names:
        raise IntakeError(CODE, f"The file holds no tensors; {WAY_OUT}.")
    if twice := {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set():
        raise IntakeError(CODE, f"The file holds {min(twice)} twice; {WAY_OUT}.")


def _keys_used(metadata: dict[str, Any], tensors: tuple[str, ...]) -> frozenset[str]:
    """Keys that transformers' newer tables of configurations read; the older ones are held against ours."""
    try:
        from transformers.integrations.gguf import GGUF_CONFIG_ARCHS
    except ImportError:
        return frozenset()
    if metadata["general.architecture"] not in GGUF_CONFIG_ARCHS:
        return frozenset()
    watched = _Watched(metadata)
    GGUF_CONFIG_ARCHS[metadata["general.architecture"]](watched, tensors)
    return frozenset(watched.found)


class _Watched(dict[str, Any]):
    """Remembers which keys were there when asked for."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.found: set[str] = set()

    def __contains__(self, key: object) -> bool:
        return self._note(key, super().__contains__(key))

    def __getitem__(self, key: str) -> Any:
        self._note(key, super().__contains__(key))
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._note(key, super().__contains__(key))
        return super().get(key, default)

    def _note(self, key: object, there: bool) -> bool:
        if there:
            self.found.add(str(key))
        return there


def _watch_names() -> list[_Watched]:
    """transformers' maps from a file's tensors to the model's, which remember what was asked of them.

    The list is filled while the model is loaded; the last map is the whole model's. Newer architectures have none:
    their loader reports what it could not use.
    """
    from transformers import modeling_gguf_pytorch_utils as loader

    maps: list[_Watched] = []
    make = loader.get_gguf_hf_weights_map

    def watched(*args: Any, **kwargs: Any) -> _Watched:
        maps.append(_Watched(make(*args, **kwargs)))
        return maps[-1]

    loader.get_gguf_hf_weights_map = watched
    return maps


def _factors(reader: Any) -> dict[str, list[float]]:
    return {
        tensor.name: _values(tensor).reshape(-1).tolist() for tensor in reader.tensors if tensor.name in FACTORS
    }


def _values(tensor: Any) -> Any:
    """A tensor of the file as a float32 array."""
    import gguf

    return gguf.dequantize(tensor.data, tensor.tensor_type)


def _check_tensors(reader: Any, report: Mapping[str, Any], maps: list[_Watched], tied: set[str]) -> None:
    """Raises IntakeError for tensors that the model needs and the file lacks, or that it has and nobody used."""
    known = maps[-1] if maps else {}
    there = {tensor.name for tensor in reader.tensors}
    homes: dict[str, list[str]] = {}
    for name, home in dict.items(known):
        homes.setdefault(home, []).append(name)
    missing = set(report["missing_keys"])
    alone = missing - tied or missing  # a head that is the embedding lacks whenever that does
    lacking = [homes.get(name, [name])[0] for name in sorted(alone)]
    for parts in homes.values():  # several tensors of the file for one of the model
        held = [part for part in parts if part in there or f"{part}.weight" in there]
        lacking += [part for part in parts if held and part not in held]
    if lacking:
        raise IntakeError(
            "gguf_incomplete",
            f"The file lacks {_some(lacking)}; bring the whole model (if it is in pieces, join them with "
            "`llama-gguf-split --merge`).",
        )
    left = sorted(map(str, report.get("unexpected_keys") or ()))
    if maps:
        used = maps[-1].found
        left += [
            name
            for name in sorted(there)
            if name not in used and name.removesuffix(".weight") not in used and not _is_known(name)
        ]
    if left:
        raise IntakeError(CODE, f"The converted model would lose the tensors {_some(left)}; {WAY_OUT}.")


def _check_shapes(report: Mapping[str, Any], maps: list[_Watched]) -> None:
    """Raises IntakeError for a tensor of another shape than the configuration gives it."""
    homes = _origins(maps)
    for name, stored, wanted in sorted(report.get("mismatched_keys") or ()):
        raise IntakeError(
            CODE,
            f"{homes.get(name, name)} has the shape {tuple(stored)} where the file's keys make it {tuple(wanted)}"
            f"; {WAY_OUT}.",
        )


def _origins(maps: list[_Watched]) -> dict[str, str]:
    """The model's tensors → the file's."""
    return {home: name for name, home in dict.items(maps[-1])} if maps else {}


def _is_known(name: str) -> bool:
    return name in FACTORS or _UNNEEDED.fullmatch(name) is not None


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _check_finite(model: Any, reader: Any, maps: list[_Watched], dtype: str) -> None:
    """Raises IntakeError for a number that is none, or that the dtype cannot hold."""
    import numpy as np
    import torch

    homes = _origins(maps)
    stored = {tensor.name: tensor for tensor in reader.tensors}
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point() or bool(torch.isfinite(tensor).all()):
            continue
        origin = homes.get(name, name)
        found = stored.get(origin) or stored.get(f"{origin}.weight")
        if found is not None and bool(np.isfinite(_values(found)).all()):
            way = "bfloat16 or float32" if dtype == "float16" else "float32"
            raise IntakeError(
                "gguf_overflow", f"{origin} has numbers too large for {dtype}; register it with the dtype {way}."
            )
        raise IntakeError(
            "gguf_not_finite", f"{origin} has values that are not numbers (NaN or infinite); {WAY_OUT}."
        )


def _forget_quantisation(model: Any) -> None:
    """The weights are plain now; with these left, saving refuses and loading would look for the GGUF file."""
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        quantizer.remove_quantization_config(model)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
