"""Which files of a model repository are taken: plain data only, by an allow-list of names."""

import re
from collections.abc import Collection, Container, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Never

from worker.model_files.errors import IntakeError
from worker.model_files.strict_json import read_object

CONFIG: Final = "config.json"
INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
TOKENIZER: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
PROCESSOR: Final = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
"""How a model that sees images wants them."""
SMALL_FILES: Final = frozenset({CONFIG, "generation_config.json", *TOKENIZER, *PROCESSOR})
"""What belongs to the model beside the weights, its index and its terms; each is bounded by SMALL_FILE_BYTES."""
SMALL_FILE_BYTES: Final = 128 * 2**20
INDEX_BYTES: Final = 32 * 2**20

_WEIGHTS: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}\.safetensors", re.ASCII)
_PICKLED: Final = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_TERMS: Final = re.compile(
    r"(?=.{1,100}$)(?:[a-z0-9]+[._-])*(?:licen[cs]es?|copying|copyright|notices?|use[_-]policy)"
    r"(?:[._-][a-z0-9]+)*?(?:\.(?:txt|md|rst|pdf))?",
    re.ASCII | re.IGNORECASE,
)
_CODE: Final = (".py", ".json", ".sh", ".so", ".safetensors", ".gguf", *_PICKLED)


def is_weights_name(name: str) -> bool:
    """Whether `name` is a plain file name of a safetensors file (no folder, nothing hidden)."""
    return _WEIGHTS.fullmatch(name) is not None


def is_companion(name: str) -> bool:
    """Whether a file of this name goes with a model, and with everything made from it: configuration, tokenizer,
    and the terms it is given under (LICENSE, NOTICE, USE_POLICY). Not the model card, which describes the dense
    model."""
    return name in SMALL_FILES or (_TERMS.fullmatch(name) is not None and not name.lower().endswith(_CODE))


def small_files(listing: Mapping[str, int]) -> list[str]:
    """The files beside the weights that are taken from a folder with these names and sizes.

    Raises IntakeError when the folder cannot be a model that we read.
    """
    if CONFIG not in listing:
        raise IntakeError("config_missing", "There is no config.json; name a folder that holds a whole model.")
    if not any(is_weights_name(name) for name in listing):
        _refuse_without_weights(listing)
    chosen = sorted(filter(is_companion, listing)) + [INDEX] * has_shards(listing)
    for name in chosen:
        if listing[name] > SMALL_FILE_BYTES:
            raise IntakeError(
                "file_too_large", f"{name} is larger than {SMALL_FILE_BYTES} bytes: shorten it, or leave it out."
            )
    return chosen


def has_shards(listing: Container[str]) -> bool:
    """Whether the weights are what an index names: as in transformers, a single file comes before an index."""
    return INDEX in listing and SINGLE not in listing


def weight_files(listing: Collection[str], index: Path) -> list[str]:
    """The safetensors files that make up the model; other ones beside them are not taken.

    index: local path of the index file, read only when `has_shards`.
    """
    if not has_shards(listing):
        if SINGLE not in listing:
            _refuse_other_weights(listing)
        return [SINGLE]
    names = sorted(set(read_weight_map(index).values()))
    for name in names:
        if name not in listing:
            raise IntakeError(
                "shard_missing",
                f"{INDEX} names {name}, which is not there; bring the whole model with all shards.",
            )
    return names


def weights_left(listing: Iterable[str], taken: Container[str]) -> list[str]:
    """What looks like weights and is not taken: another model, a variant, an adapter."""
    return sorted(name for name in listing if name.endswith((".safetensors", INDEX)) and name not in taken)


def read_weight_map(index: Path) -> dict[str, str]:
    """`weight_map` of an index file: tensor → plain name of a safetensors file, both checked in form."""
    weight_map = read_object(index, INDEX, INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise IntakeError("index_invalid", f"{INDEX} has no weight_map; save the model again, which writes one.")
    return {tensor: _shard(file) for tensor, file in weight_map.items()}


def _shard(file: Any) -> str:
    name = file.removeprefix("./") if isinstance(file, str) else ""
    if not is_weights_name(name):
        raise IntakeError(
            "weight_map_path",
            f"A weight_map entry of {INDEX} ({str(file)[:100]!r}) is not the plain name of a safetensors file; "
            "put all shards beside the index and name them without a folder.",
        )
    return name


def _refuse_other_weights(listing: Iterable[str]) -> Never:
    """There are safetensors files, but none that transformers would load."""
    found = [name for name in sorted(listing) if is_weights_name(name)]
    way = f"Save the model in one {SINGLE} or in shards with {INDEX}."
    for name in found:
        if name.startswith("adapter_"):
            way = "An adapter is no model: merge it into its base model (PEFT's merge_and_unload) and save that."
        elif name.startswith("consolidated"):
            way = f"The layout of consolidated.safetensors is not transformers' own: convert it. {way}"
    only = f", only {', '.join(found[:5])}" if found else ""
    raise IntakeError("weights_missing", f"There is neither {SINGLE} nor an index{only}. {way}")


def _refuse_without_weights(names: Collection[str]) -> None:
    if any(name.endswith(_PICKLED) for name in names):
        raise IntakeError(
            "pickled_weights",
            "The weights are pickled (.bin, .pt), which can run code when opened. Load the model where you "
            "trust it and save it again with save_pretrained(folder), which writes safetensors.",
        )
    if any(name.endswith(".gguf") for name in names):
        raise IntakeError("gguf_folder", 'The folder holds GGUF files; register one of them with "type": "gguf".')
    raise IntakeError("weights_missing", "There are no safetensors weights in the folder.")
