"""What cannot be pruned is refused when a job is planned, with the reason."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from tests.tiny import make_tiny
from tests.worker.pruning.conftest import Request
from worker.pruning import PruningJob, UserError, plan

SHAPE: dict[str, Any] = {"vocab_size": 320, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
EXPERTS: dict[str, Any] = {"intermediate_size": 32, "num_local_experts": 4, "num_key_value_heads": 2}


def refusal(folder: Path, request_for: Request) -> str:
    with pytest.raises(UserError) as caught:
        plan(PruningJob.from_dict(request_for(model=str(folder))))
    assert (caught.value.code, caught.value.field) == ("unsupported_model", "/model")
    return caught.value.message


@pytest.mark.parametrize(
    ("model_type", "config", "message"),
    [
        ("mamba", {"state_size": 4}, "MambaForCausalLM is recurrent"),
        ("rwkv", {"attention_hidden_size": 64}, "RwkvForCausalLM is recurrent"),
        ("granitemoe", EXPERTS, "input_linear.weight holds all experts of a layer"),
        ("gpt_oss", {**EXPERTS, "head_dim": 16}, "experts.gate_up_proj holds several matrices"),
    ],
)
def test_models_whose_blocks_cannot_be_pruned(
    model_type: str, config: dict[str, Any], message: str, tmp_path: Path, request_for: Request
) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **SHAPE, **config))
    model.save_pretrained(tmp_path / "model")
    assert message in refusal(tmp_path / "model", request_for)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "t5"}, "no causal language model"),
        ({"model_type": "bart", "architectures": None, "is_encoder_decoder": True}, "Encoder-decoder models are"),
        ({"auto_map": {"AutoModelForCausalLM": "modeling.Evil"}}, "the repository's own code"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised weights cannot be pruned"),
        ({"_experts_implementation_internal": "evil/kernel"}, "can fetch code or other files"),
        ({"num_attention_heads": 0}, "config.json describes no model"),
        ({"hidden_size": "wide"}, "config.json describes no model"),
        ({"num_hidden_layers": 1}, "belongs to no module"),
    ],
)
def test_configs_that_describe_no_plain_model(
    changes: dict[str, Any], message: str, tmp_path: Path, request_for: Request
) -> None:
    path = make_tiny("llama", tmp_path / "model") / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    assert message in refusal(tmp_path / "model", request_for)


def test_experts_saved_as_they_are_in_memory(tmp_path: Path, request_for: Request) -> None:
    folder = make_tiny("qwen3-moe", tmp_path / "model")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})
    message = "experts.down_proj holds all experts of a layer; only one matrix an expert can be pruned"
    assert message.partition(";")[2] in refusal(folder, request_for)
