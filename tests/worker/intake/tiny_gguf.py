"""A tiny random GGUF model with a tokenizer, written with the gguf package."""

from pathlib import Path

import numpy as np
from gguf import GGUFWriter, TokenType

BLOCKS, HIDDEN, HEADS, INNER = 2, 32, 4, 64


def write_tiny_gguf(path: Path, tied: bool = True, architecture: str = "llama") -> Path:
    """A Llama of two blocks whose vocabulary is the bytes and a few merges."""
    writer = GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    vocabulary = _add_tokenizer(writer)
    draw = np.random.default_rng(0)
    for name, shape in _shapes(vocabulary, tied).items():
        scale = np.ones(shape) if len(shape) == 1 else draw.normal(scale=0.1, size=shape)
        writer.add_tensor(name, scale.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: GGUFWriter) -> int:
    letters = [chr(i) for i in range(33, 127)] + ["Ġ", "Ċ"]
    tokens = ["<|endoftext|>", *letters, "th", "the"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] + [TokenType.NORMAL] * (len(tokens) - 1))
    writer.add_token_merges(["t h", "th e"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_vocab_size(len(tokens))
    return len(tokens)


def _shapes(vocabulary: int, tied: bool) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (vocabulary, HIDDEN),
        "output_norm.weight": (HIDDEN,),
    }
    if not tied:
        shapes["output.weight"] = (vocabulary, HIDDEN)
    for block in range(BLOCKS):
        square = {f"attn_{name}": (HIDDEN, HIDDEN) for name in ("q", "k", "v", "output")}
        inner = {"ffn_gate": (INNER, HIDDEN), "ffn_up": (INNER, HIDDEN), "ffn_down": (HIDDEN, INNER)}
        norms = {"attn_norm": (HIDDEN,), "ffn_norm": (HIDDEN,)}
        for name, shape in {**square, **inner, **norms}.items():
            shapes[f"blk.{block}.{name}.weight"] = shape
    return shapes
