"""Tiny random models with a tiny tokenizer, as Hugging Face folders: what tests prune instead of a real model."""

import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

POSITIONS = 256
"""Of a tiny Llama."""
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


def put_before(folder: Path, *special: str, behind: str | None = None) -> Path:
    """Give the folder's tokenizer a template that puts special tokens before every text, and one behind it."""
    fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
    parts = [*special, "$A", *([behind] if behind else [])]
    named = [(part, fast.token_to_id(part)) for part in dict.fromkeys(parts) if part != "$A"]
    fast.post_processor = processors.TemplateProcessing(single=" ".join(parts), special_tokens=named)
    fast.save(str(folder / "tokenizer.json"))
    return folder


def _save(model: Any, folder: Path, dtype: torch.dtype) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    model.to(dtype).save_pretrained(folder)
    return make_tokenizer(folder)


def teach(folder: Path, steps: int = 80) -> Path:
    """Train a folder's model on `text` for a moment: what a random one says of a text's next tokens is chance, and
    neither pruning nor tuning makes it worse or better."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    dtype = model.dtype
    ids = torch.tensor(Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text(4000, seed=7)).ids)
    windows = ids[: len(ids) // 64 * 64].view(-1, 64)
    optimiser = torch.optim.Adam(model.float().train().parameters(), lr=3e-3)
    torch.manual_seed(0)
    for _ in range(steps):
        part = windows[torch.randint(len(windows), (8,))]
        model(part, labels=part).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.to(dtype).save_pretrained(folder)
    return folder


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


WINDOW = 8
"""Tokens of every sliding window here."""
ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention"]
GROUPED: dict[str, Any] = {"num_key_value_heads": 2, "head_dim": 16}
EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, **GROUPED}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "mistral": ("mistral", {"sliding_window": WINDOW, **GROUPED}),
    "qwen2": ("qwen2", {"num_key_value_heads": 2, "use_sliding_window": True, "sliding_window": WINDOW}),
    "qwen3": ("qwen3", {"tie_word_embeddings": False, **GROUPED}),
    "gemma2": ("gemma2", {"layer_types": ALTERNATING, "sliding_window": WINDOW, **GROUPED}),
    "gemma3": ("gemma3_text", {"layer_types": ALTERNATING, "sliding_window": WINDOW, **GROUPED}),
    "phi3": ("phi3", {"sliding_window": WINDOW, "num_key_value_heads": 2}),
    "olmo2": ("olmo2", {"num_key_value_heads": 2}),
    "opt": ("opt", {"word_embed_proj_dim": 64, "ffn_dim": 128, "init_std": 0.1}),
    "opt-post-norm": (
        "opt",
        {"word_embed_proj_dim": 32, "ffn_dim": 128, "init_std": 0.1, "do_layer_norm_before": False},
    ),
    "gpt2": ("gpt2", {"n_positions": 256}),
    "gpt2-bare": ("gpt2", {"n_positions": 256}),
    "gpt": ("openai-gpt", {"n_positions": 256}),
    "neox": ("gpt_neox", {"tie_word_embeddings": False}),
    "falcon": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-alibi": ("falcon", {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True}),
    "falcon-parallel": ("falcon", {"multi_query": True, "parallel_attn": True}),
    "bloom": ("bloom", {"n_layer": 3, "n_head": 4}),
    "bloom-bare": ("bloom", {"n_layer": 3, "n_head": 4}),
    "mixtral": ("mixtral", {"num_local_experts": 4, **EXPERTS}),
    "qwen3-moe": (
        "qwen3_moe",
        {"num_experts": 4, "moe_intermediate_size": 32, "mlp_only_layers": [1], "norm_topk_prob": True, **EXPERTS},
    ),
    "qwen2-moe": (
        "qwen2_moe",
        {"num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 64, **EXPERTS},
    ),
}
"""Family or variant → model type and its configuration beyond `_shape`. `-bare`: saved from the base model, as the
hub has it, without the prefix."""


def make_tiny(family: str, folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """A random model of three blocks of one of FAMILIES in `folder`, in the layout that the hub has."""
    torch.manual_seed(seed)
    model_type, own = FAMILIES[family]
    config = AutoConfig.for_model(model_type, **{**_shape(3, 64), "initializer_range": 0.1, **own, **changes})
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms and biases: ones and zeros would hide a mix-up
                parameter += 0.1 * torch.randn_like(parameter)
    _save(model, folder, torch.float32)
    if family.endswith("-bare"):
        _strip_prefix(folder, model.base_model_prefix)
    return folder


def _strip_prefix(folder: Path, prefix: str) -> None:
    path = folder / "model.safetensors"
    tensors = {name.removeprefix(f"{prefix}."): tensor for name, tensor in load_file(path).items()}
    if "h.0.attn.c_attn.weight" in tensors:
        # Checkpoints of that age carry their causal masks.
        tensors |= {f"h.{i}.attn.bias": torch.ones(1, 1, 256, 256).tril().bool() for i in range(3)}
    save_file(tensors, path, {"format": "pt"})


def _shape(blocks: int, hidden: int) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": blocks,
        "num_attention_heads": 4,
        "max_position_embeddings": POSITIONS,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": None,
    }
