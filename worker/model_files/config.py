"""Checks of config.json: nothing in it may name code, and it must describe a plain causal language model."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from worker.model_files.architectures import causal_models, headless_models, wrapped_models
from worker.model_files.choose import CONFIG
from worker.model_files.errors import IntakeError
from worker.model_files.strict_json import read_object

CONFIG_BYTES: Final = 2**20
MAX_BLOCKS: Final = 1000
MAX_LABELS: Final = 10_000
"""A configuration makes a name for every one as soon as it is opened."""

_REMOTE_CODE: Final = frozenset({"auto_map", "trust_remote_code"})
"""Each is the code of its own refusal."""
_DANGEROUS: Final = frozenset(
    {
        # Loads a kernel from a hub (CVE-2026-4372), or names other files to load.
        "_attn_implementation_internal",
        "_experts_implementation_internal",
        "custom_pipelines",
        "custom_generate",
        "distributed_config",
        "kernel_config",
        "use_kernels",
        "transformers_weights",
    }
)
_IMPLEMENTATIONS: Final = frozenset(
    {"attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation"}
)
_BUILT_IN: Final = frozenset(
    {"eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention", "grouped_mm", "batched_mm"}
)
_BLOCK_KEYS: Final = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_BLOCK_LISTS: Final = ("layer_types", "layers_block_type")
"""Keys that name every layer's kind; some configurations count their layers only so."""


@dataclass(frozen=True)
class Description:
    """What config.json says."""

    architecture: str
    model_type: str
    blocks: int


def read_config(path: Path) -> Description:
    """Check a config.json and say what it describes. Raises IntakeError with a code of its own a danger.

    The engine asks here too, so that what is taken in and what is pruned are decided by the same rules.
    """
    config = read_object(path, CONFIG, CONFIG_BYTES)
    refuse_code(config, CONFIG)
    _refuse_quantised(config)
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not _classes(model_type):
        name = model_type if isinstance(model_type, str) and model_type.isidentifier() else "none"
        raise IntakeError(
            "unknown_model_type",
            f"The model_type of {CONFIG} ({name[:60]}) is no causal language model of the installed transformers.",
        )
    if config.get("is_encoder_decoder") is True:
        raise IntakeError("unsupported_architecture", "Encoder-decoder models are not supported.")
    if isinstance(labels := config.get("num_labels"), int) and labels > MAX_LABELS:
        raise IntakeError(
            "config_too_large",
            f"{CONFIG} has {labels} for num_labels; a language model needs none, remove the key.",
        )
    return Description(_architecture(config, model_type), model_type, _blocks(config))


def refuse_code(config: dict[str, Any], file: str) -> None:
    """Raise IntakeError when a key at any depth makes a loader run or fetch code."""
    for key, value in _walk(config):
        if value is None or value is False:
            continue
        if key in _REMOTE_CODE:
            raise IntakeError(
                key,
                f"{file} has `{key}`, which runs the repository's own code. Remove the key: model types that "
                "the installed transformers knows do not need it.",
            )
        foreign = key in _IMPLEMENTATIONS and not (isinstance(value, str) and value in _BUILT_IN)
        if foreign or key in _DANGEROUS:
            raise IntakeError(
                "dangerous_config", f"{file} has `{key}`, which can fetch code or other files. Remove the key."
            )


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            yield from item.items()
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)


def _refuse_quantised(config: dict[str, Any]) -> None:
    for key, value in _walk(config):
        if key in ("quantization_config", "compression_config") and value is not None:
            raise IntakeError(
                "quantised_model",
                f"{CONFIG} has `{key}`: quantised weights cannot be pruned. Register the unquantised model "
                "(bfloat16, float16 or float32), or dequantise it and save it without the key.",
            )


def _classes(model_type: str) -> frozenset[str]:
    return causal_models().get(model_type, frozenset()) | wrapped_models().get(model_type, frozenset())


def _architecture(config: dict[str, Any], model_type: str) -> str:
    known = _classes(model_type)
    named = config.get("architectures")
    if named is None or named in [[name] for name in headless_models().get(model_type, ())]:
        return sorted(causal_models().get(model_type, known))[0]
    if named not in [[name] for name in known]:
        raise IntakeError(
            "unsupported_architecture",
            f"`architectures` of {CONFIG} must be one of {', '.join(sorted(known))} for model_type {model_type}.",
        )
    return str(named[0])


def _blocks(config: dict[str, Any]) -> int:
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        for key in _BLOCK_KEYS:
            value = part.get(key)
            if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_BLOCKS:
                return value
        for key in _BLOCK_LISTS:
            kinds = part.get(key)
            if isinstance(kinds, list) and 0 < len(kinds) <= MAX_BLOCKS:
                return len(kinds)
    raise IntakeError("config_incomplete", f"{CONFIG} does not say the number of layers (num_hidden_layers).")
