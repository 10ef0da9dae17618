"""A tiny random GGUF model with a tokenizer, written with the gguf package."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter, TokenType

BLOCKS, HIDDEN, HEADS, INNER = 2, 32, 4, 64
TENSORS = Mapping[str, np.ndarray | None]


def write_tiny_gguf(
    path: Path,
    tied: bool = True,
    architecture: str = "llama",
    keys: Mapping[str, Any] | None = None,
    tensors: TENSORS | None = None,
    pieces: bool = False,
) -> Path:
    """A Llama of two blocks whose vocabulary is the bytes and a few merges.

    keys: more metadata, by full name. tensors: added or put in another's place; None leaves one out. pieces: with
    a SentencePiece vocabulary.
    """
    writer = GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(BLOCKS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    if f"{architecture}.rope.freq_base" not in (keys or {}):
        writer.add_rope_freq_base(10000.0)
    vocabulary = (_add_pieces if pieces else _add_tokenizer)(writer)
    for name, value in (keys or {}).items():
        _add(writer, name, value)
    for name, values in (tiny_tensors(vocabulary, tied) | dict(tensors or {})).items():
        if values is not None:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tiny_tensors(vocabulary: int, tied: bool) -> dict[str, np.ndarray | None]:
    """Random weights, float32."""
    draw = np.random.default_rng(0)
    return {
        name: (np.ones(shape) if len(shape) == 1 else draw.normal(scale=0.1, size=shape)).astype(np.float32)
        for name, shape in _shapes(vocabulary, tied).items()
    }


def _add(writer: GGUFWriter, name: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(name, value)
        case int():
            writer.add_uint32(name, value)
        case float():
            writer.add_float32(name, value)
        case str():
            writer.add_string(name, value)
        case Sequence():
            writer.add_array(name, value)


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


def _add_pieces(writer: GGUFWriter) -> int:
    """As SentencePiece has it: control tokens, bytes, pieces with their scores, and a user's own run of spaces."""
    special = ["<unk>", "<s>", "</s>"]
    octets = [f"<0x{byte:02X}>" for byte in range(256)]
    letters = ["▁", *map(chr, range(97, 123)), "th", "▁th", "▁the"]
    tokens = [*special, *octets, *letters, "  "]
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]
    kinds += [TokenType.BYTE] * len(octets) + [TokenType.NORMAL] * len(letters) + [TokenType.USER_DEFINED]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(i) for i in range(len(tokens))])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
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
