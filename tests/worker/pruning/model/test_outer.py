"""What is around the blocks is what `from_pretrained` loads, whatever the configuration says of tied weights.

Slow: the oracle is transformers' loading of a written checkpoint.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from tests.tiny import FAMILIES, make_tiny
from tests.worker.pruning.conftest import Request, prune
from worker.pruning import PruningJob, UserError, plan
from worker.pruning.model.block_runner import BlockRunner
from worker.pruning.model.checkpoint import Checkpoint
from worker.pruning.model.graph import build_graph

pytestmark = pytest.mark.slow

TIED = ("llama", "gemma3", "gpt2", "gpt2-bare", "opt", "bloom", "falcon", "qwen2-moe")
"""Families whose classes say what is tied, each in another way of naming or storing it."""

DEEPSEEK = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "moe_intermediate_size": 16,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "n_routed_experts": 4,
    "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "q_lora_rank": 16, "kv_lora_rank": 16,
    "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "first_k_dense_replace": 1,
}  # fmt: skip


def state(model: Any) -> dict[str, torch.Tensor]:
    """Every parameter and buffer by name, also those that are another one's."""
    return dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))


def check_outer(folder: Path) -> Any:
    """The shell's tensors equal the library's; returns the library's model."""
    checkpoint = Checkpoint.open(folder)
    graph = build_graph(folder, checkpoint)
    runner = BlockRunner(graph, checkpoint, torch.device("cpu"))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prefix = graph.blocks[0].prefix.rpartition(".")[0]
    wanted, found = state(model), state(runner.graph.model)
    outer = [name for name in wanted if not name.startswith(f"{prefix}.")]
    assert outer
    assert found.keys() == wanted.keys()
    for name in outer:
        assert found[name].dtype is wanted[name].dtype, name
        assert torch.equal(found[name], wanted[name]), name
    for block in graph.blocks:
        runner.load_block(block, checkpoint.read(block.tensors))
    for name, tensor in state(runner.graph.model).items():
        assert torch.equal(tensor, wanted[name]), name
    return model


def stored(family: str, folder: Path, which: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """A model whose checkpoint holds of embedding and head: `both` (different), `equal`, `head` or `embedding`."""
    make_tiny(family, folder, **changes)
    model = AutoModelForCausalLM.from_pretrained(folder)
    embedding = next(n for n, t in model.named_parameters() if t is model.get_input_embeddings().weight)
    head = next(n for n, m in model.named_modules() if m is model.get_output_embeddings()) + ".weight"
    path = folder / "model.safetensors"
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
    inside = next(
        name for name in (embedding, embedding.removeprefix(f"{model.base_model_prefix}.")) if name in tensors
    )
    weight = tensors.pop(inside)
    tensors.pop(head, None)
    if which != "head":
        tensors[inside] = weight
    if which != "embedding":
        tensors[head] = weight.clone() if which == "equal" else torch.randn_like(weight.float()).to(dtype)
    save_file(tensors, path, {"format": "pt"})
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_outer_tensors_are_the_librarys(family: str, tmp_path: Path) -> None:
    check_outer(make_tiny(family, tmp_path / "model"))


@pytest.mark.parametrize("which", ["both", "equal", "head", "embedding"])
@pytest.mark.parametrize("family", TIED)
def test_embedding_and_head_of_a_tied_model(family: str, which: str, tmp_path: Path) -> None:
    folder = stored(family, tmp_path / "model", which, tie_word_embeddings=True)
    model = check_outer(folder)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) is (which != "both")


@pytest.mark.parametrize("which", ["both", "equal", "head"])
def test_embedding_and_head_in_bfloat16(which: str, tmp_path: Path) -> None:
    check_outer(stored("llama", tmp_path / "model", which, torch.bfloat16))


def test_stored_buffers(tmp_path: Path) -> None:
    """Those of the model's state are loaded, in their own dtype, also inside blocks; others are not."""
    config = AutoConfig.for_model("deepseek_v3", **DEEPSEEK)
    model = AutoModelForCausalLM.from_config(config)
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    biases = [name for name in tensors if name.endswith("e_score_correction_bias")]
    assert biases
    tensors |= {name: torch.randn_like(tensors[name]).bfloat16() for name in biases}
    tensors["model.rotary_emb.inv_freq"] = torch.full_like(model.model.rotary_emb.inv_freq, 7.0)
    save_file(tensors, path, {"format": "pt"})
    loaded = state(check_outer(folder))
    assert torch.equal(loaded[biases[0]], tensors[biases[0]].float())
    assert float(loaded["model.rotary_emb.inv_freq"].max()) <= 1


@pytest.mark.parametrize(("which", "lacks"), [("embedding", "lm_head.weight"), ("head", "embed_tokens.weight")])
def test_what_is_not_tied_must_be_stored(which: str, lacks: str, tmp_path: Path, request_for: Request) -> None:
    folder = stored("qwen3", tmp_path / "model", which)
    with pytest.raises(UserError, match=f"the checkpoint lacks .*{lacks}") as caught:
        plan(PruningJob.from_dict(request_for(model=str(folder))))
    assert (caught.value.code, caught.value.field) == ("unsupported_model", "/model")


@pytest.mark.parametrize("which", ["both", "head"])
def test_a_pruned_model_has_the_outer_tensors_of_the_dense_one(
    which: str, tmp_path: Path, request_for: Request
) -> None:
    folder = stored("llama", tmp_path / "model", which)
    prune(request_for(model=str(folder)))
    dense, pruned = (
        AutoModelForCausalLM.from_pretrained(each) for each in (folder, tmp_path / "work" / "stage-00" / "model")
    )
    for one, other in (
        (dense.get_input_embeddings(), pruned.get_input_embeddings()),
        (dense.get_output_embeddings(), pruned.get_output_embeddings()),
    ):
        assert torch.equal(one.weight, other.weight)
