"""What a GGUF file's metadata says of its model, held against the configuration that it was converted to.

Run in the converter's process. Every key of the architecture's own namespace is in one of the tables here, and is
then true of the configuration or made so; or the file is refused, naming it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from worker.model_files.errors import IntakeError

CODE: Final = "gguf_unsupported"
WAY_OUT: Final = "register the original safetensors model instead"

Value = Any


@dataclass(frozen=True)
class Fact:
    """Where one key's value stands in a configuration.

    names: attributes, of which the first that the configuration has counts. change: from the key's value to the
    attribute's. Where there is no such attribute: neutral are values that change nothing, derived is what the
    value must then be, and proven says that the tensors' shapes tell the same, or that it bounds nothing.
    """

    names: tuple[str, ...] = ()
    neutral: tuple[Value, ...] = ()
    change: Callable[[Value], Value] = lambda value: value
    derived: Callable[[Any], Value] | None = None
    proven: bool = False

    def holds_without(self, config: Any, value: Value) -> bool:
        """Whether a configuration without the attributes says the value all the same."""
        if self.proven or value in self.neutral:
            return True
        return self.derived is not None and same(self.derived(config), value)


def head_dim(config: Any) -> int:
    """Features of one attention head."""
    found = getattr(config, "head_dim", None)
    return int(found or config.hidden_size // config.num_attention_heads)


def _whole(value: float) -> float:
    """The whole number that 32 bits have blurred, where it is one."""
    return round(value) if math.isclose(value, round(value), rel_tol=1e-5) else value


def _or_none(value: Value) -> Value:
    return value or None


_NORM: Final = (
    "rms_norm_eps",
    "norm_eps",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "norm_epsilon",
    "layernorm_epsilon",
)
_GATING: Final = {0: "none", 1: "softmax", 2: "sigmoid"}

FACTS: Final[dict[str, Fact]] = {
    "block_count": Fact(("num_hidden_layers", "n_layer")),
    "embedding_length": Fact(("hidden_size", "n_embd")),
    "feed_forward_length": Fact(("intermediate_size", "ffn_hidden_size", "n_inner"), proven=True),
    "vocab_size": Fact(("vocab_size",), proven=True),
    "context_length": Fact(("max_position_embeddings", "n_positions", "seq_length"), proven=True),
    "attention.head_count": Fact(("num_attention_heads", "n_head"), (0,)),
    "attention.head_count_kv": Fact(("num_key_value_heads", "num_kv_heads"), (0,)),
    "attention.key_length": Fact(("head_dim",), derived=head_dim),
    "attention.value_length": Fact(("head_dim",), derived=head_dim),
    "attention.layer_norm_rms_epsilon": Fact(_NORM),
    "attention.layer_norm_epsilon": Fact(_NORM),
    "attention.sliding_window": Fact(("sliding_window",), (0,), _or_none),
    "attention.scale": Fact(
        ("query_pre_attn_scalar",), (0,), lambda value: _whole(value**-2), lambda c: head_dim(c) ** -0.5
    ),
    "attention.max_alibi_bias": Fact((), (0.0, 8.0)),
    "attention.clamp_kqv": Fact((), (0.0,)),
    "tensor_data_layout": Fact((), ("jploski", "reference")),
    "attention.causal": Fact((), (True,)),
    "attn_logit_softcapping": Fact(("attn_logit_softcapping",), (0.0,), _or_none),
    "final_logit_softcapping": Fact(("final_logit_softcapping",), (0.0,), _or_none),
    "logit_scale": Fact(("logit_scale",), (0.0, 1.0)),
    "embedding_scale": Fact(("embedding_multiplier",), (0.0, 1.0)),
    "residual_scale": Fact(("residual_multiplier",), (0.0, 1.0)),
    "use_parallel_residual": Fact(("use_parallel_residual",)),
    "expert_count": Fact(("num_local_experts", "num_experts", "n_routed_experts"), (0,)),
    "expert_used_count": Fact(("num_experts_per_tok",), (0,)),
    "expert_shared_count": Fact(("n_shared_experts",), (0,)),
    "expert_feed_forward_length": Fact(("moe_intermediate_size",), proven=True),
    "expert_shared_feed_forward_length": Fact(("shared_expert_intermediate_size",), proven=True),
    "expert_weights_scale": Fact(("routed_scaling_factor",), (0.0, 1.0)),
    "expert_weights_norm": Fact(("norm_topk_prob",), (False,)),
    "expert_gating_func": Fact(("scoring_func",), (0, 1), lambda value: _GATING.get(value, value)),
    "nextn_predict_layers": Fact((), (0,)),
    "ssm.conv_kernel": Fact(("conv_kernel",)),
    "ssm.state_size": Fact(("state_size",)),
    "ssm.time_step_rank": Fact(("time_step_rank",)),
    "ssm.inner_size": Fact(("intermediate_size",)),
    "ssm.dt_b_c_rms": Fact((), (False,)),
}
"""Key without its architecture → its fact. Those of the rotary embedding are `gguf_rope`'s."""

ROTARY: Final = "rope."

DEFAULTS: Final[dict[str, Mapping[str, Value]]] = {
    "llama": {"attention.sliding_window": 0},
    "starcoder2": {"attention.sliding_window": 0},
}
"""Architecture → what llama.cpp takes a key to be that is absent, where the library's default is another."""

LARGEST_GEMMAS: Final = {"gemma2": 46, "gemma3": 62}
"""Architecture → blocks of its 27B model, whose scores are scaled by the width a head and not by a head's."""


def settle(config: Any, metadata: Mapping[str, Value], used: frozenset[str]) -> None:
    """Make the configuration what the file says. used: keys that transformers' own table has read for certain.

    Raises IntakeError for a key that the configuration cannot say, or that nobody here knows.
    """
    architecture = metadata["general.architecture"]
    _check_kind(metadata)
    given = {
        key.removeprefix(f"{architecture}."): value
        for key, value in metadata.items()
        if key.startswith(f"{architecture}.") and key not in used
    }
    absent = {key: value for key, value in DEFAULTS.get(architecture, {}).items() if key not in given}
    if "attention.head_count_kv" not in given and "attention.head_count" in given:
        absent["attention.head_count_kv"] = given["attention.head_count"]
    if "attention.key_length" not in given and given.get("attention.head_count"):
        absent["attention.key_length"] = given["embedding_length"] // given["attention.head_count"]
    for key, value in (given | absent).items():
        if not key.startswith(ROTARY):
            _settle_one(config, f"{architecture}.{key}", FACTS.get(key), value)
    if isinstance(config.pad_token_id, int) and config.pad_token_id >= config.vocab_size:
        config.pad_token_id = None  # the library's default, of another vocabulary
    if architecture in LARGEST_GEMMAS and "attention.scale" not in given:
        wide = config.num_hidden_layers == LARGEST_GEMMAS[architecture]
        scalar = config.hidden_size // config.num_attention_heads if wide else head_dim(config)
        if not same(config.query_pre_attn_scalar, scalar):
            config.query_pre_attn_scalar = scalar


def _check_kind(metadata: Mapping[str, Value]) -> None:
    kind = metadata.get("general.type", "model")
    if kind != "model":
        raise IntakeError(CODE, f"The file holds no model (general.type is {kind!r}); {WAY_OUT}.")


def _settle_one(config: Any, key: str, fact: Fact | None, value: Value) -> None:
    if isinstance(value, list) and value and all(each == value[0] for each in value):
        value = value[0]  # one value a block, all alike
    if fact is None or isinstance(value, list):
        raise unsayable(f"{key} ({str(value)[:60]})")
    name = next((name for name in fact.names if hasattr(config, name)), None)
    if name is None:
        if not fact.holds_without(config, value):
            raise unsayable(f"{key} ({str(value)[:60]})")
        return
    wanted, found = fact.change(value), getattr(config, name)
    if found is None and name == "head_dim":
        found = head_dim(config)
    if not same(found, wanted):
        setattr(config, name, wanted)


def unsayable(what: str) -> IntakeError:
    """The refusal of what would be lost, a key with its value or a tensor."""
    return IntakeError(
        CODE, f"The converted model could not say {what}, which changes what it computes; {WAY_OUT}."
    )


def same(found: Value, wanted: Value) -> bool:
    """Equal, or as equal as 32 bits are to 64."""
    if isinstance(found, bool) or isinstance(wanted, bool):
        return bool(found) is bool(wanted)
    if isinstance(found, int | float) and isinstance(wanted, int | float):
        return math.isclose(found, wanted, rel_tol=1e-6)
    return bool(found == wanted)
