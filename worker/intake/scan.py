"""The intake scan: what a model folder must be before anything of ours opens it with torch."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from worker.intake.licence import CARD, Licence, read_licence
from worker.model_files.choose import (
    CONFIG,
    INDEX,
    INDEX_BYTES,
    PROCESSOR,
    SMALL_FILE_BYTES,
    is_weights_name,
    read_weight_map,
)
from worker.model_files.config import Description, read_config, refuse_code
from worker.model_files.errors import IntakeError
from worker.model_files.safetensors_header import Entry, read_header
from worker.model_files.strict_json import read_object
from worker.model_files.tokenizer import check_growth

DTYPES: Final = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
INDICES: Final = {"BOOL", "I16", "I32", "I64", "U16", "U32", "U64"}
UNIFORM: Final = 0.9
"""Share of the weight matrices that must have the model's dtype (routers and norms may differ)."""
MAX_NAME: Final = 300
MAX_TENSORS: Final = 200_000
"""The largest mixtures of experts have a quarter of them."""
SHOWN: Final = 20
"""Names that a warning has at most."""

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/-]*", re.ASCII)


def answer(request: Mapping[str, Any], tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The scan as a child's work (`worker.isolation`). request: `step`, small or weights; `files`, name → path."""
    files = {name: Path(path) for name, path in request["files"].items()}
    warnings: list[dict[str, Any]] = []

    def warn(code: str, message: str, **data: Any) -> None:
        warnings.append({"code": code, "message": message, "data": data})

    if request["step"] == "small":
        description = asdict(scan_small_files(files))
        return {"description": description, "license": scan_card(files, warn), "warnings": warnings}
    weights = scan_weights(files, lambda: tell({}), warn)
    tensors = {name: (each.dtype, each.shape, each.start, each.bytes) for name, each in weights.tensors.items()}
    return {"tensors": tensors, "warnings": warnings}


class Warn(Protocol):
    """Notes something for the model's owner; see `Context.warn`."""

    def __call__(self, code: str, message: str, **data: Any) -> None: ...


@dataclass(frozen=True)
class Weights:
    """What the headers of the weights say. tensors: every one, needed by the model or not."""

    tensors: Mapping[str, Entry]

    @property
    def parameters(self) -> int:
        return sum(entry.elements for entry in self.tensors.values())

    def dtype(self, unused: Collection[str] = ()) -> str:
        """The dtype of the weight matrices, which must be nearly uniform and floating.

        unused: names of tensors that the model does not need.
        """
        return _dtype({name: entry for name, entry in self.tensors.items() if name not in unused})


def scan_small_files(files: Mapping[str, Path]) -> Description:
    """Check everything beside the weights (name → local path, names from the allow-list).

    Raises IntakeError with its code; nothing is done but to parse JSON within bounds.
    """
    description = read_config(files[CONFIG])
    _check_tokenizer(files)
    return description


def scan_card(files: Mapping[str, Path], warn: Warn) -> Licence | None:
    """The licence that the model's card names, if there is a card."""
    try:
        return read_licence(files[CARD]) if CARD in files else None
    except ValueError as error:
        warn("licence_not_read", f"the licence of {CARD} was not recorded: {error}")
        return None


def scan_weights(files: Mapping[str, Path], check: Callable[[], None], warn: Warn) -> Weights:
    """Check the weights of the same folder against each other and the index; only their headers are read."""
    tensors: dict[str, Entry] = {}
    homes: dict[str, str] = {}
    for name in sorted(filter(is_weights_name, files)):
        check()
        for tensor, entry in read_header(files[name]).tensors.items():
            if len(tensor) > MAX_NAME or not _NAME.fullmatch(tensor):
                message = f"The name of a tensor in {name} is too long or has odd characters: {tensor[:60]!r}."
                raise IntakeError("safetensors_invalid", message)
            if tensor in homes:
                raise IntakeError(
                    "duplicate_tensor",
                    f"{tensor} is in both {homes[tensor]} and {name}; save the model again with save_pretrained.",
                )
            homes[tensor], tensors[tensor] = name, entry
        if len(tensors) > MAX_TENSORS:
            raise IntakeError("too_many_tensors", f"The files hold more than {MAX_TENSORS} tensors.")
    if INDEX in files:
        _compare_index(files[INDEX], homes, tensors, warn)
    return Weights(tensors)


def _check_tokenizer(files: Mapping[str, Path]) -> None:
    """The tokenizer, and what a model wants its images as, must load without code or packages of their own."""
    for name in ("tokenizer_config.json", "generation_config.json", *PROCESSOR):
        if name in files:
            refuse_code(read_object(files[name], name, SMALL_FILE_BYTES), name)
    if "tokenizer.json" in files:
        check_growth(read_object(files["tokenizer.json"], "tokenizer.json", SMALL_FILE_BYTES))
    elif not {"vocab.json", "merges.txt"} <= files.keys():
        raise IntakeError(
            "tokenizer_missing",
            "There is neither tokenizer.json nor vocab.json with merges.txt. Load the tokenizer with "
            "AutoTokenizer and save it beside the model with save_pretrained(folder), which writes it.",
        )


def _compare_index(path: Path, homes: Mapping[str, str], tensors: Mapping[str, Entry], warn: Warn) -> None:
    """Say where the index is wrong about its files. As in transformers, what counts is which files it names."""
    weight_map = read_weight_map(path)
    wrong = sorted(name for name in weight_map.keys() | homes.keys() if weight_map.get(name) != homes.get(name))
    if wrong:
        warn(
            "index_mismatch",
            f"{INDEX} is not true about {len(wrong)} tensors; they were taken as the files have them",
            tensors=wrong[:SHOWN],
        )
    metadata = read_object(path, INDEX, INDEX_BYTES).get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    actual = sum(entry.bytes for entry in tensors.values())
    if total is not None and total != actual:
        message = f"total_size of {INDEX} is not the size of the tensors; it was not believed"
        warn("index_total_size", message, said=total if isinstance(total, int) else str(total)[:50], bytes=actual)


def _dtype(tensors: Mapping[str, Entry]) -> str:
    """The dtype of the weight matrices, which must be nearly uniform and floating."""
    # Four dimensions: causal masks that old checkpoints carry, as booleans. Integers of other widths: positions.
    shaped = (entry for entry in tensors.values() if len(entry.shape) in (2, 3))
    counts = Counter(entry.dtype for entry in shaped if entry.dtype not in INDICES)
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
