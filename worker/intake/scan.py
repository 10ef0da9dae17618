"""The intake scan: what a model folder must be before anything of ours opens it with torch."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from worker.intake.choose import CONFIG, INDEX, INDEX_BYTES, SMALL_FILE_BYTES, is_weights_name, read_weight_map
from worker.intake.config import Description, read_config, refuse_code
from worker.intake.errors import IntakeError
from worker.intake.safetensors_header import Entry, read_header
from worker.intake.strict_json import read_object

DTYPES: Final = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
UNIFORM: Final = 0.9
"""Share of the weight matrices that must have the model's dtype (routers and norms may differ)."""


@dataclass(frozen=True)
class Weights:
    """What the headers of the weights say."""

    dtype: str
    parameters: int


def scan_small_files(files: Mapping[str, Path]) -> Description:
    """Check everything beside the weights (name → local path, names from the allow-list).

    Raises IntakeError with its code; nothing is done but to parse JSON within bounds.
    """
    description = read_config(files[CONFIG])
    _check_tokenizer(files)
    return description


def scan_weights(files: Mapping[str, Path], check: Callable[[], None]) -> Weights:
    """Check the weights of the same folder against each other and the index; only their headers are read."""
    tensors: dict[str, Entry] = {}
    homes: dict[str, str] = {}
    for name in sorted(filter(is_weights_name, files)):
        check()
        for tensor, entry in read_header(files[name]).items():
            if tensor in homes:
                raise IntakeError("duplicate_tensor", f"{tensor} is in both {homes[tensor]} and {name}.")
            homes[tensor], tensors[tensor] = name, entry
    if INDEX in files:
        _check_index(files[INDEX], homes, tensors)
    return Weights(_dtype(tensors), sum(entry.elements for entry in tensors.values()))


def _check_tokenizer(files: Mapping[str, Path]) -> None:
    """The tokenizer must load without code or packages of its own."""
    for name in ("tokenizer_config.json", "generation_config.json"):
        if name in files:
            refuse_code(read_object(files[name], name, SMALL_FILE_BYTES), name)
    if "tokenizer.json" in files:
        read_object(files["tokenizer.json"], "tokenizer.json", SMALL_FILE_BYTES)
    elif not {"vocab.json", "merges.txt"} <= files.keys():
        raise IntakeError(
            "tokenizer_missing",
            "There is neither tokenizer.json nor vocab.json with merges.txt. Load the tokenizer with "
            "AutoTokenizer and save it beside the model with save_pretrained(folder), which writes it.",
        )


def _check_index(path: Path, homes: Mapping[str, str], tensors: Mapping[str, Entry]) -> None:
    """The index must say exactly what the shards' headers say."""
    weight_map = read_weight_map(path)
    for tensor, file in weight_map.items():
        if homes.get(tensor) != file:
            raise IntakeError("index_mismatch", f"{INDEX} puts a tensor into {file} that is not in that file.")
    missing = next((tensor for tensor in homes if tensor not in weight_map), None)
    if missing is not None:
        raise IntakeError("index_mismatch", f"{missing} is in {homes[missing]} but not in {INDEX}.")
    metadata = read_object(path, INDEX, INDEX_BYTES).get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    actual = sum(entry.end - entry.start for entry in tensors.values())
    if total is not None and total != actual:
        raise IntakeError("index_mismatch", f"total_size of {INDEX} is not the size of the tensors ({actual}).")


def _dtype(tensors: Mapping[str, Entry]) -> str:
    """The dtype of the weight matrices, which must be nearly uniform and floating."""
    # Four dimensions: causal masks that old checkpoints carry, as booleans.
    counts = Counter(entry.dtype for entry in tensors.values() if len(entry.shape) in (2, 3))
    if not counts:
        raise IntakeError("no_matrices", "The files hold no weight matrix.")
    dtype, count = counts.most_common(1)[0]
    if any(name not in DTYPES for name in counts):
        odd = next(name for name in counts if name not in DTYPES)
        raise IntakeError(
            "unsupported_dtype",
            f"Some weight matrices are {odd}; register the model in bfloat16, float16 or float32 (unquantised).",
        )
    if count < UNIFORM * counts.total():
        raise IntakeError(
            "mixed_dtypes", f"The weight matrices mix {', '.join(sorted(counts))}; save the model in one dtype."
        )
    return DTYPES[dtype]
