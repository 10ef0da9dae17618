"""Which families are pruned and which are refused: docs/families.md shows the list, a run is held against it.

A family is a `model_type` of transformers. Beside it stands what its tiny configuration needs otherwise.
"""

from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True)
class Family:
    """One line of the table. images: by its class that reads text beside images. refused: how the reason begins to
    be told, None where it is pruned. instead: what to do then."""

    model_type: str
    own: dict[str, Any] = field(default_factory=dict)
    images: bool = False
    refused: str | None = None
    instead: str = ""

    @property
    def name(self) -> str:
        return f"{self.model_type} (images)" if self.images else self.model_type


def _plain(names: str, **own: Any) -> list[Family]:
    return [Family(name, own) for name in names.split()]


def _images(names: str, **own: Any) -> list[Family]:
    return [Family(name, own, images=True) for name in names.split()]


def _refused(name: str, reason: str, instead: str, **own: Any) -> Family:
    return Family(name, own, refused=reason, instead=instead)


ATTENTION: Final = [
    *_plain("apertus arcee bitnet bloom cohere cohere2 ctrl diffllama doge ernie4_5 exaone4 falcon gemma gemma2"),
    *_plain("gemma3_text glm glm4 gpt2 gpt_bigcode gpt_neox gpt_neox_japanese granite granite_swa helium"),
    *_plain("hunyuan_v1_dense hyperclovax jais2 llama ministral ministral3 mistral moshi mpt nanochat nemotron"),
    *_plain("olmo olmo2 olmo3 openai-gpt opt persimmon phi phi3 qwen2 qwen3 seed_oss smollm3 stablelm starcoder2"),
    *_plain("vaultgemma xglm biogpt"),
    *_plain("codegen gptj", rotary_dim=8),
    Family("cwm", {"bos_token_id": 1}),
    Family("gpt_neo", {"attention_types": [[["global", "local"], 2]]}),
]
EXPERTS: Final = [
    *_plain("afmoe cohere2_moe ernie4_5_moe exaone_moe flex_olmo glm4_moe hunyuan_v1_moe hy_v3 laguna mellum"),
    *_plain("minimax_m2 mixtral olmoe phimoe qwen2_moe qwen3_moe"),
    *_plain("aria_text gpt_oss granitemoe granitemoe_swa granitemoeshared inkling_text minimax_m3_vl_text"),
    *_plain("axk1 deepseek_v2 deepseek_v3 deepseek_v32 glm4_moe_lite", head_dim=16, num_key_value_heads=4),
    Family("dots1", {"n_shared_experts": 1}),
]
RECURRENT: Final = [
    *_plain("bamba falcon_h1 falcon_mamba jamba lfm2 lfm3 mamba minimax nemotron_h olmo_hybrid qwen3_5_text"),
    *_plain("qwen3_next recurrent_gemma"),
    Family("granitemoehybrid", {"num_local_experts": 0}),
    Family("lfm2_moe", {"layer_types": ["conv", "full_attention"] * 2}),
    Family("mamba2", {"num_heads": 8, "head_dim": 16}),
]
_ROTARY: Final = {"rope_type": "default", "rope_theta": 10000.0}
IMAGES: Final = [
    *_images("aya_vision cohere2_vision exaone4_5 gemma3 got_ocr2 internvl lfm2_vl llava llava_next"),
    *_images(
        "llava_onevision mistral3 ovis2 paligemma qwen3_5 qwen3_5_moe qwen3_vl qwen3_vl_moe smolvlm vipllava"
    ),
    *_images("deepseek_vl"),
    *_images("qwen2_vl qwen2_5_vl", text_config={"rope_parameters": {**_ROTARY, "mrope_section": [2, 3, 3]}}),
    *_images(
        "glm4v",
        text_config={"rope_parameters": {**_ROTARY, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 2]}},
    ),
]
_DEPENDS: Final = "which depends on the tokens of the text"
_HAND_ON: Final = "its decoder blocks hand more than the hidden states on to each other"
_TOGETHER: Final = "holds several matrices in a form that cannot be pruned"
REFUSED: Final = [
    _refused("bart", "config.json does not say the number of layers", "a model that is a decoder alone"),
    _refused("deepseek_v4", _DEPENDS, "`deepseek_v3`"),
    _refused(
        "gemma3n_text",
        _DEPENDS,
        "`gemma3_text`, `gemma3`",
        num_kv_shared_layers=0,
        activation_sparsity_pattern=None,
    ),
    _refused("glm_moe_dsa", _HAND_ON, "`glm4_moe`"),
    _refused("hrm_text", "no clear list of decoder blocks", "a model with one list of blocks"),
    _refused("hy_v4", _HAND_ON, "`hy_v3`"),
    _refused("jetmoe", _TOGETHER, "`mixtral`, `olmoe`"),
    _refused("llama4_text", _TOGETHER, "`llama`, or another mixture of experts"),
    _refused("longcat_flash", _TOGETHER, "`deepseek_v3`"),
    _refused("rwkv", _HAND_ON, "`mamba2`, `falcon_h1`"),
    _refused(
        "zamba2", "is shared with another layer", "`falcon_h1`, `bamba`", layer_types=["mamba", "hybrid"] * 2
    ),
]
FAMILIES: Final = [*ATTENTION, *EXPERTS, *RECURRENT, *IMAGES, *REFUSED]
