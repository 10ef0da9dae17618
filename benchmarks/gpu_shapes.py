"""Checkpoints that have the shapes of a real model and no numbers: files with holes, of some blocks."""

import json
import math
import struct
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.tiny import make_tokenizer

LLAMA: Final = {"vocab_size": 128256, "num_key_value_heads": 8, "tie_word_embeddings": False}
SHAPES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "1b": ("llama", {"hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32, **LLAMA}),
    "8b": ("llama", {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, **LLAMA}),
    "30b-a3b": (
        "qwen3_moe",
        {
            "vocab_size": 151936,
            "hidden_size": 2048,
            "moe_intermediate_size": 768,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "head_dim": 128,
        },
    ),
    "70b": ("llama", {"hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64, **LLAMA}),
}
"""A family and its configuration by name."""
BLOCKS: Final = {"1b": 16, "8b": 32, "30b-a3b": 48, "70b": 80}
"""Of the real models."""


def make_hollow(folder: Path, shape: str, blocks: int = 2) -> Path:
    """A checkpoint in bfloat16 that takes next to no room on the disk, with the tests' tokenizer."""
    family, fields = SHAPES[shape]
    folder.mkdir(parents=True)
    make_tokenizer(folder)
    ids: dict[str, Any] = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": None}
    config = AutoConfig.for_model(
        family, num_hidden_layers=blocks, max_position_embeddings=131072, dtype="bfloat16", **ids, **fields
    )
    config.save_pretrained(folder)
    with torch.device("meta"):
        tensors = AutoModelForCausalLM.from_config(config).state_dict()
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in sorted(tensors.items()):
        start, end = end, end + 2 * math.prod(tensor.shape)
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [start, end]}
    written = json.dumps(header).encode()
    written += b" " * (-len(written) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(written)) + written)
        file.truncate(8 + len(written) + end)
    return folder
