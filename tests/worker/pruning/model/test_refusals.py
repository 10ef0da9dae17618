"""What cannot be pruned is refused when a job is planned, with the reason."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.family_models import make_model
from tests.tiny import make_tiny, make_tokenizer
from tests.worker.pruning.conftest import Request
from worker.pruning import PruningJob, UserError, plan
from worker.pruning.model.block_runner import BlockRunner
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.model.graph import build_graph
from worker.pruning.model.tracing import stand_in

SHAPE: dict[str, Any] = {"vocab_size": 320, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def refusal(folder: Path, request_for: Request) -> str:
    with pytest.raises(UserError) as caught:
        plan(PruningJob.from_dict(request_for(model=str(folder))))
    assert (caught.value.code, caught.value.field) == ("unsupported_model", "/model")
    return caught.value.message


@pytest.mark.parametrize(
    ("model_type", "config", "message"),
    [
        ("rwkv", {}, "its decoder blocks hand more than the hidden states on to each other"),
        ("jetmoe", {}, "input_linear.weight holds several matrices in a form that cannot be pruned, most of"),
        ("llama4_text", {}, "take a model from docs/families.md"),
        (
            "hrm_text",
            {},
            "no clear list of decoder blocks (candidates: model.L_module.layers, model.H_module.layers)",
        ),
        ("zamba2", {"layer_types": ["mamba", "hybrid"] * 2}, "is shared with another layer"),
    ],
)
def test_models_whose_blocks_cannot_be_pruned(
    model_type: str, config: dict[str, Any], message: str, tmp_path: Path, request_for: Request
) -> None:
    assert message in refusal(make_model(tmp_path / "model", model_type, **config), request_for)


def gemma4(folder: Path, **changes: Any) -> Path:
    """hidden_size_per_layer_input: 256 by default."""
    torch.manual_seed(0)
    own = {"num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 128, "num_kv_shared_layers": 0}
    small = {"vocab_size_per_layer_input": 320, "layer_types": 2 * ["sliding_attention", "full_attention"]}
    config = AutoConfig.for_model("gemma4_text", **{**SHAPE, "num_hidden_layers": 4, **own, **small, **changes})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return make_tokenizer(folder)


REFUSED_CALLS = [
    ({}, "model.layers.0 is called with per_layer_input, which depends on the tokens of the text"),
    ({"num_kv_shared_layers": 1}, "its decoder blocks are not called one after another"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED_CALLS)
def test_blocks_that_cannot_be_run_one_at_a_time(
    changes: dict[str, Any], message: str, tmp_path: Path, request_for: Request
) -> None:
    assert message in refusal(gemma4(tmp_path / "model", **changes), request_for)


@pytest.mark.parametrize(("changes", "message"), REFUSED_CALLS)
def test_the_real_weights_are_asked_too(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = gemma4(tmp_path / "model", **changes)
    checkpoint = Checkpoint.open(folder)
    with pytest.raises(UserError, match=message) as caught:
        BlockRunner(build_graph(folder, checkpoint), checkpoint, torch.device("cpu"))
    assert (caught.value.code, caught.value.field) == ("unsupported_model", "/model")


def test_a_model_that_does_not_run_around_its_blocks_is_refused(
    tmp_path: Path, request_for: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("not in pieces")

    folder = make_tiny("llama", tmp_path / "model")
    monkeypatch.setattr("transformers.models.llama.modeling_llama.LlamaModel.forward", breaks)
    message = "LlamaForCausalLM does not run block by block: not in pieces"
    assert message in refusal(folder, request_for)


def test_a_large_vocabulary_takes_no_memory_when_a_job_is_planned() -> None:
    before = torch.zeros(10**6, 10**5, device="meta")  # 400 GB
    found = stand_in(before, torch.Generator().manual_seed(0))
    assert found.shape == before.shape
    assert found.untyped_storage().nbytes() < 2**23
    one, other = nn.functional.embedding(torch.tensor([1, 2]), found)
    assert not torch.equal(one, other)


def test_a_variant_of_a_refused_model_whose_blocks_get_nothing_of_the_text(
    tmp_path: Path, request_for: Request
) -> None:
    folder = gemma4(tmp_path / "model", hidden_size_per_layer_input=0)
    assert plan(PruningJob.from_dict(request_for(model=str(folder))))["blocks"] == 4


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
        ({"num_hidden_layers": 4}, "the checkpoint lacks model.layers.3."),
    ],
)
def test_configs_that_describe_no_plain_model(
    changes: dict[str, Any], message: str, tmp_path: Path, request_for: Request
) -> None:
    path = make_tiny("llama", tmp_path / "model") / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    assert message in refusal(tmp_path / "model", request_for)


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("layers.1.block_sparse_moe.experts.3.w1.", "layers.1.mlp.experts.gate_up_proj the checkpoint has 3 of "),
        ("layers.1.block_sparse_moe.experts.3.", "layers.1.mlp.experts.gate_up_proj, made of 6 tensors of the"),
    ],
)
def test_an_expert_that_lacks_is_told_by_its_layer(
    lost: str, message: str, tmp_path: Path, request_for: Request
) -> None:
    path = make_tiny("mixtral", tmp_path / "model") / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(path).items() if lost not in name}
    save_file(kept, path, {"format": "pt"})
    assert message in refusal(tmp_path / "model", request_for)
