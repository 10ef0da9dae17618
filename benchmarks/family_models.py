"""A tiny random model of nearly any family that transformers knows, from the family's own default configuration.

What a default configuration says in thousands is said in tens here; everything else stays as it is, so that each
family keeps what is its own: kinds of layers, experts, latents, convolutions.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from tests.tiny import VOCABULARY, make_tokenizer

HEADS = 4
WIDTH = 64


def _all(names: str, value: Any) -> dict[str, Any]:
    return dict.fromkeys(names.split(), value)


SMALL: dict[str, Any] = {
    **_all("vocab_size vocab_size_per_layer_input", VOCABULARY),
    **_all("hidden_size d_model n_embd dim embedding_dim emb_dim embedding_size", WIDTH),
    **_all("word_embed_proj_dim lru_width", WIDTH),
    **_all("intermediate_size ffn_dim n_inner d_ff ffn_hidden_size decoder_ffn_dim encoder_ffn_dim", 128),
    **_all("shared_intermediate_size mlp_hidden_size dense_intermediate_size feed_forward_hidden_size", 128),
    **_all("prefix_dense_intermediate_size intermediate_size_mlp", 128),
    **_all("num_hidden_layers n_layer num_layers n_layers decoder_layers encoder_layers", 4),
    **_all("num_attention_heads n_head n_heads num_heads decoder_attention_heads", HEADS),
    **_all("encoder_attention_heads linear_num_value_heads", HEADS),
    **_all("num_key_value_heads num_kv_heads linear_num_key_heads index_n_heads", 2),
    **_all("head_dim global_head_dim swa_head_dim qk_rope_head_dim qk_nope_head_dim v_head_dim", 16),
    **_all("linear_key_head_dim linear_value_head_dim attention_head_dim index_head_dim", 16),
    **_all("hidden_size_per_layer_input", 16),
    **_all("max_position_embeddings n_positions max_seq_len n_ctx", 256),
    **_all("num_experts num_local_experts n_routed_experts moe_num_experts", 4),
    **_all("num_experts_per_tok moe_topk moe_top_k moe_k num_experts_per_token top_k_experts", 2),
    **_all("moe_intermediate_size expert_ffn_hidden_size expert_intermediate_size", 32),
    **_all("shared_expert_intermediate_size moe_shared_expert_intermediate_size", 64),
    **_all("moe_shared_intermediate_size", 64),
    **_all("q_lora_rank kv_lora_rank", 32),
    **_all("mamba_d_state ssm_state_size state_size mamba_d_head mamba_head_dim", 16),
    **_all("mamba_n_heads mamba_num_heads", 8),
    **_all("mamba_n_groups n_groups n_mamba_heads n_group topk_group first_k_dense_replace", 1),
    **_all("mamba_d_ssm", 2 * WIDTH),
    **_all("sliding_window attention_window window_size index_topk", 8),
    "initializer_range": 0.1,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": None,
}
"""Names that configurations share, and the size that each of them has here."""


VISION: dict[str, Any] = {
    **_all("image_size num_image_tokens max_num_patches", 28),
    **_all("patch_size", 14),
    **_all("out_hidden_size text_hidden_size projection_dim projector_hidden_size", WIDTH),
}
"""What the part of a model that sees images has in other sizes than the one that reads."""


def tiny_config(model_type: str, **own: Any) -> Any:
    """The family's default configuration, shrunk. own: fields that this family needs otherwise."""
    default = CONFIG_MAPPING[model_type]().to_dict()
    parts = {name: part for name, part in default.items() if name.endswith("_config") and isinstance(part, dict)}
    for name, part in parts.items():
        parts[name] = {**part, **_shrunk(part), **({} if name == "text_config" else _named(VISION, part))}
    nested = {name: {**part, **own.pop(name, {})} for name, part in parts.items()}
    return AutoConfig.for_model(model_type, **{**_shrunk(default), **nested, **own})


def _shrunk(default: dict[str, Any]) -> dict[str, Any]:
    small = _named(SMALL, default)
    if isinstance(default.get("layer_types"), list):
        small["layer_types"] = None  # made anew for the number of layers
    return small


def _named(sizes: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in sizes.items() if name in default}


def make_model(folder: Path, model_type: str, **own: Any) -> Path:
    """A random model of the family in `folder`, as the hub would have it, with a tokenizer."""
    torch.manual_seed(0)
    auto = AutoModelForImageTextToText if own.pop("wrapped", False) else AutoModelForCausalLM
    model: Any = auto.from_config(tiny_config(model_type, **own))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1 or not parameter.any():  # ones and zeros would hide a mix-up
                parameter += 0.1 * torch.randn_like(parameter)
    model.float().save_pretrained(folder)
    return make_tokenizer(folder)
