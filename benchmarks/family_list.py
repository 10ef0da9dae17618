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
    *_plain("axk1 deepseek_v2 deepseek_v3 deepseek_v32 glm4_moe_lite", head_dim=16, num_key_value_heads=4),
    Family("dots1", {"n_shared_experts": 1}),
]
RECURRENT: Final = [
    *_plain("bamba falcon_h1 falcon_mamba jamba lfm2 lfm3 mamba minimax nemotron_h olmo_hybrid qwen3_5_text"),
    *_plain("qwen3_next"),
    Family("granitemoehybrid", {"num_local_experts": 0}),
    Family("lfm2_moe", {"layer_types": ["conv", "full_attention"] * 2}),
    Family("mamba2", {"num_heads": 8, "head_dim": 16}),
]
IMAGES: Final = [
    *_images("aya_vision cohere2_vision exaone4_5 gemma3 got_ocr2 internvl lfm2_vl llava llava_next"),
    *_images("llava_onevision mistral3 ovis2 paligemma qwen3_5 qwen3_5_moe qwen3_vl smolvlm vipllava"),
]
_OTHER_MODEL: Final = "a model of the same size whose blocks are called one after another"
REFUSED: Final = [
    _refused(
        "rwkv",
        "its decoder blocks hand more than the hidden states on to each other",
        "a Mamba or hybrid model of the same size",
    ),
]
FAMILIES: Final = [*ATTENTION, *EXPERTS, *RECURRENT, *IMAGES, *REFUSED]
