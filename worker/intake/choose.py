"""Which files of a model repository are taken: plain data only, by an allow-list of names."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from worker.intake.errors import IntakeError
from worker.intake.strict_json import read_object

CONFIG: Final = "config.json"
INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
TOKENIZER: Final = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
SMALL_FILES: Final = frozenset({CONFIG, "generation_config.json", INDEX, *TOKENIZER})
"""Everything beside the weights; each is bounded by SMALL_FILE_BYTES."""
SMALL_FILE_BYTES: Final = 128 * 2**20
INDEX_BYTES: Final = 32 * 2**20

_WEIGHTS: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}\.safetensors", re.ASCII)
_PICKLED: Final = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


def is_weights_name(name: str) -> bool:
    """Whether `name` is a plain file name of a safetensors file (no folder, nothing hidden)."""
    return _WEIGHTS.fullmatch(name) is not None


def small_files(listing: Mapping[str, int]) -> list[str]:
    """The files beside the weights that are taken from a folder with these names and sizes.

    Raises IntakeError when the folder cannot be a model that we read.
    """
    if CONFIG not in listing:
        raise IntakeError("config_missing", "There is no config.json; name a folder that holds a whole model.")
    if not any(is_weights_name(name) for name in listing):
        _refuse_without_weights(listing)
    chosen = sorted(SMALL_FILES & listing.keys())
    for name in chosen:
        if listing[name] > SMALL_FILE_BYTES:
            raise IntakeError("file_too_large", f"{name} is larger than {SMALL_FILE_BYTES} bytes.")
    return chosen


def weight_files(listing: Mapping[str, int], index: Path | None) -> list[str]:
    """The safetensors files that make up the model; other ones beside them are not taken.

    index: local path of the index file, if the folder has one.
    """
    if index is None:
        if SINGLE not in listing:
            fix = f"Save the model in one {SINGLE} or in shards with {INDEX}."
            raise IntakeError("weights_missing", f"There is neither {SINGLE} nor an index. {fix}")
        return [SINGLE]
    names = sorted(set(read_weight_map(index).values()))
    for name in names:
        if name not in listing:
            raise IntakeError("shard_missing", f"{INDEX} names {name}, which is not there.")
    if SINGLE in listing and SINGLE not in names:
        raise IntakeError(
            "ambiguous_weights", f"There are both {SINGLE} and shards of another model; remove one of them."
        )
    return names


def read_weight_map(index: Path) -> dict[str, str]:
    """`weight_map` of an index file: tensor → plain name of a safetensors file, both checked in form."""
    weight_map = read_object(index, INDEX, INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise IntakeError("index_invalid", f"{INDEX} has no weight_map.")
    for file in weight_map.values():
        if not isinstance(file, str) or not is_weights_name(file):
            raise IntakeError(
                "weight_map_path", f"A weight_map entry of {INDEX} is not the plain name of a safetensors file."
            )
    return weight_map


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
