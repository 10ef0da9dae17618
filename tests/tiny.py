"""Tiny random models with a tiny tokenizer, as Hugging Face folders: what tests prune instead of a real model."""

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCABULARY = 320
SENTENCE = """the a cat dog tree branch blade gardener cuts prunes grows in on under near of and but then slowly
quickly old new green dry spring winter rose apple wall path water light root leaf stone bird sings waits"""
WORDS = SENTENCE.split()


def text(words: int, seed: int = 0) -> str:
    """Sentences of random common words, one paragraph every 60 words."""
    draw = random.Random(seed)
    pieces = [draw.choice(WORDS) + ("\n" if i % 60 == 59 else " ") for i in range(words)]
    return "".join(pieces)


def make_tokenizer(folder: Path) -> Path:
    """A byte-level BPE of 320 tokens, trained on `text`, saved as tokenizer.json and its config."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text(2000)], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    fast.save_pretrained(folder)
    return folder


def _save(model: Any, folder: Path, dtype: torch.dtype) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    model.to(dtype).save_pretrained(folder)
    return make_tokenizer(folder)


def make_tiny_llama(
    folder: Path,
    *,
    blocks: int = 2,
    hidden: int = 64,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    tied: bool = True,
) -> Path:
    """A random Llama (grouped-query attention, tied embeddings) of `blocks` blocks in `folder`."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        **_shape(blocks, hidden), num_key_value_heads=2, tie_word_embeddings=tied, initializer_range=0.1
    )
    return _save(LlamaForCausalLM(config), folder, dtype)


def make_tiny_qwen3(folder: Path, *, blocks: int = 2, hidden: int = 64, seed: int = 0) -> Path:
    """A random Qwen3: norms on queries and keys, untied head."""
    torch.manual_seed(seed)
    config = Qwen3Config(**_shape(blocks, hidden), num_key_value_heads=2, head_dim=16, tie_word_embeddings=False)
    return _save(Qwen3ForCausalLM(config), folder, torch.float32)


def make_tiny_gemma3(folder: Path, *, blocks: int = 2, hidden: int = 64, seed: int = 0) -> Path:
    """A random Gemma 3 (text): alternating sliding and full attention, so each block has its own arguments."""
    torch.manual_seed(seed)
    kinds = ["sliding_attention" if i % 2 == 0 else "full_attention" for i in range(blocks)]
    config = Gemma3TextConfig(
        **_shape(blocks, hidden), num_key_value_heads=2, head_dim=16, layer_types=kinds, sliding_window=8
    )
    return _save(Gemma3ForCausalLM(config), folder, torch.float32)


def make_tiny_neox(folder: Path, *, blocks: int = 2, hidden: int = 64, seed: int = 0) -> Path:
    """A random GPT-NeoX: fused query/key/value, attention and MLP in parallel, biases."""
    torch.manual_seed(seed)
    return _save(GPTNeoXForCausalLM(GPTNeoXConfig(**_shape(blocks, hidden))), folder, torch.float32)


def make_tiny_opt(folder: Path, *, blocks: int = 2, hidden: int = 64, seed: int = 0) -> Path:
    """A random OPT: learned positions, biases, ReLU (so dead inputs really happen)."""
    torch.manual_seed(seed)
    config = OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        word_embed_proj_dim=hidden,
        ffn_dim=2 * hidden,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        max_position_embeddings=256,
        init_std=0.1,
    )
    return _save(OPTForCausalLM(config), folder, torch.float32)


def make_tiny_gpt2(folder: Path, *, blocks: int = 2, hidden: int = 64, seed: int = 0) -> Path:
    """A random GPT-2: its matrices are stored transposed (Conv1D)."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=hidden,
        n_layer=blocks,
        n_head=4,
        n_positions=256,
        bos_token_id=0,
        eos_token_id=0,
    )
    return _save(GPT2LMHeadModel(config), folder, torch.float32)


def _shape(blocks: int, hidden: int) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": blocks,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": None,
    }
