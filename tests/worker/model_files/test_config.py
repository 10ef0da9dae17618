"""What a config.json may say."""

import json
from pathlib import Path
from typing import Any

import pytest

from worker.model_files.architectures import causal_models, wrapped_models
from worker.model_files.config import CONFIG_BYTES, read_config
from worker.model_files.errors import IntakeError

LLAMA: dict[str, Any] = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2}


def write(folder: Path, **changes: Any) -> Path:
    (folder / "config.json").write_text(json.dumps({**LLAMA, **changes}))
    return folder / "config.json"


def code(path: Path) -> str:
    with pytest.raises(IntakeError) as caught:
        read_config(path)
    assert str(path.parent) not in caught.value.message
    return caught.value.code


def test_the_description_of_a_model(tmp_path: Path) -> None:
    found = read_config(write(tmp_path))
    assert (found.architecture, found.model_type, found.blocks) == ("LlamaForCausalLM", "llama", 2)


def test_a_checkpoint_saved_without_its_head_is_taken(tmp_path: Path) -> None:
    found = read_config(write(tmp_path, model_type="gpt2", architectures=["GPT2Model"]))
    assert found.architecture == "GPT2LMHeadModel"


def test_the_tables_are_those_of_transformers() -> None:
    from transformers.models.auto import modeling_auto

    assert causal_models().keys() == modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys()
    assert causal_models()["llama"] == {"LlamaForCausalLM"}
    assert wrapped_models().keys() == modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.keys()
    assert wrapped_models()["mistral3"] == {"Mistral3ForConditionalGeneration"}


@pytest.mark.parametrize(
    ("model_type", "named", "expected"),
    [
        ("mistral3", ["Mistral3ForConditionalGeneration"], "Mistral3ForConditionalGeneration"),
        ("qwen3_5", ["Qwen3_5ForConditionalGeneration"], "Qwen3_5ForConditionalGeneration"),
        ("qwen3_5", ["Qwen3_5ForCausalLM"], "Qwen3_5ForCausalLM"),
        ("qwen3_5", None, "Qwen3_5ForCausalLM"),
        ("llava", None, "LlavaForConditionalGeneration"),
    ],
)
def test_a_model_that_sees_images_is_taken_by_its_class(
    model_type: str, named: Any, expected: str, tmp_path: Path
) -> None:
    changes = {"num_hidden_layers": None, "text_config": {"num_hidden_layers": 3}}
    found = read_config(write(tmp_path, model_type=model_type, architectures=named, **changes))
    assert (found.architecture, found.blocks) == (expected, 3)


def test_layers_are_counted_where_each_of_them_is_named(tmp_path: Path) -> None:
    kinds = ["mamba", "attention", "mamba"]
    assert read_config(write(tmp_path, num_hidden_layers=None, layers_block_type=kinds)).blocks == 3


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"auto_map": {"AutoModel": "modeling.Evil"}}, "auto_map"),
        ({"text_config": {"matrices": [{"auto_map": {"AutoModel": "x"}}]}}, "auto_map"),
        ({"trust_remote_code": True}, "trust_remote_code"),
        ({"_attn_implementation_internal": "evil/kernel"}, "dangerous_config"),
        ({"_experts_implementation_internal": "evil/kernel"}, "dangerous_config"),
        ({"attn_implementation": "evil/kernel"}, "dangerous_config"),
        ({"_attn_implementation": {"": "evil/kernel"}}, "dangerous_config"),
        ({"transformers_weights": "../../other.safetensors"}, "dangerous_config"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised_model"),
        ({"text_config": {"quantization_config": {}}}, "quantised_model"),
        ({"model_type": "evil"}, "unknown_model_type"),
        ({"model_type": "vit"}, "unknown_model_type"),
        ({"model_type": None}, "unknown_model_type"),
        ({"model_type": ["llama"]}, "unknown_model_type"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "unsupported_architecture"),
        ({"architectures": "LlamaForCausalLM"}, "unsupported_architecture"),
        ({"architectures": [["LlamaForCausalLM"]]}, "unsupported_architecture"),
        ({"is_encoder_decoder": True}, "unsupported_architecture"),
        ({"num_hidden_layers": None}, "config_incomplete"),
        ({"num_hidden_layers": True}, "config_incomplete"),
        ({"num_hidden_layers": 10**9}, "config_incomplete"),
    ],
)
def test_refused(changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    assert code(write(tmp_path, **changes)) == expected


@pytest.mark.parametrize(
    "changes", [{"auto_map": None}, {"trust_remote_code": False}, {"_attn_implementation": "sdpa"}]
)
def test_harmless_forms_of_those_keys_pass(changes: dict[str, Any], tmp_path: Path) -> None:
    assert read_config(write(tmp_path, **changes)).blocks == 2


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b'{"a": 1, "a": 2}',
        b'{"a": NaN}',
        b'{"a": ' + b"[" * 100_000,
        b"\xff{}",
        b'{"a": 1} {}',
    ],
)
def test_anything_but_one_strict_object_is_refused(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(text)
    assert code(tmp_path / "config.json") == "invalid_json"


def test_a_huge_config_is_not_parsed(tmp_path: Path) -> None:
    assert code(write(tmp_path, padding="x" * CONFIG_BYTES)) == "file_too_large"
