"""A converted GGUF file is the model that llama.cpp would run: nothing invented, nothing lost, or refused.

Slow: each file is converted by the library that may invent or lose something, and loaded.
"""

import math
import os
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers import modeling_gguf_pytorch_utils as loader

from tests.worker.intake.tiny_gguf import HEADS, HIDDEN, INNER, tiny_tensors, write_tiny_gguf
from worker.intake.gguf_convert import convert_file
from worker.model_files.errors import IntakeError

pytestmark = pytest.mark.slow

Convert = Callable[..., Path]
HEAD = HIDDEN // HEADS
FREQUENCIES = 10_000.0 ** (-np.arange(0, HEAD, 2) / HEAD)


@pytest.fixture
def convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Convert:
    """Writes a GGUF file and converts it as the child process does, but in this one; the folder."""
    for module, name in (
        (gguf, "GGUFReader"),
        (gguf, "get_tensor_name_map"),
        (loader, "get_gguf_hf_weights_map"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))

    numbers = count()

    def act(dtype: str = "float32", room: int = 2**30, **options: Any) -> Path:
        name = f"{next(numbers)}.gguf"
        write_tiny_gguf(tmp_path / name, **options)
        target = tmp_path / f"converted-{name}"
        convert_file(
            {
                "source": os.fspath(tmp_path),
                "file": name,
                "target": os.fspath(target),
                "dtype": dtype,
                "threads": 1,
                "room": room,
            }
        )
        return target

    return act


def refusal(convert: Convert, **options: Any) -> str:
    with pytest.raises(IntakeError) as caught:
        convert(**options)
    return caught.value.message


YARN = {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}


def array(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"blk.1.ffn_up.weight": None}, "lacks blk.1.ffn_up.weight;"),
        ({"output_norm.weight": None}, "lacks output_norm.weight;"),
        ({"token_embd.weight": None}, "lacks token_embd.weight;"),
        (
            {f"blk.1.ffn_{part}.weight": None for part in ("up", "down", "gate")},
            "blk.1.ffn_down.weight, blk.1.ffn_gate.weight, blk.1.ffn_up.weight;",
        ),
        ({"blk.0.attn_q.bias": np.zeros(HIDDEN, np.float32)}, "lose the tensors blk.0.attn_q.bias;"),
        ({"blk.2.ffn_up.weight": np.zeros((INNER, HIDDEN), np.float32)}, "lose the tensors blk.2.ffn_up.weight;"),
        ({"mystery": np.zeros(3, np.float32)}, "lose the tensors mystery;"),
        (
            {"blk.1.ffn_up.weight": np.zeros((8, HIDDEN), np.float32)},
            "blk.1.ffn_up.weight has the shape (8, 32) where the file's keys make it (64, 32);",
        ),
        (
            {"token_embd.weight": np.zeros((7, HIDDEN), np.float32)},
            "token_embd.weight has the shape (7, 32) where the file's keys make it (99, 32);",
        ),
        ({"rope_freqs.weight": array(1, 2, 1, 5)}, "could not say rope_freqs.weight"),
        ({"rope_freqs.weight": array(1, 1)}, "could not say rope_freqs.weight (2 factors for 4 frequencies)"),
        ({"rope_factors_long.weight": array(1, 2, 3, 4)}, "lacks the tensor rope_factors_short.weight"),
    ],
)
def test_a_tensor_too_few_or_too_many_is_named(convert: Convert, tensors: Any, said: str) -> None:
    assert said in refusal(convert, tensors=tensors)


def test_constants_that_llama_cpp_skips_do_no_harm(convert: Convert) -> None:
    convert(tensors={"blk.0.attn_rot_embd.weight": np.ones(HEAD // 2, np.float32)})


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"llama.attention.scale": 0.7}, "llama.attention.scale (0.69"),
        ({"llama.attention.sliding_window": 64}, "llama.attention.sliding_window (64)"),
        ({"llama.attn_logit_softcapping": 30.0}, "llama.attn_logit_softcapping (30.0)"),
        ({"llama.final_logit_softcapping": 30.0}, "llama.final_logit_softcapping (30.0)"),
        ({"llama.logit_scale": 0.5}, "llama.logit_scale (0.5)"),
        ({"llama.embedding_scale": 12.0}, "llama.embedding_scale (12.0)"),
        ({"llama.residual_scale": 0.2}, "llama.residual_scale"),
        ({"llama.expert_count": 8}, "llama.expert_count (8)"),
        ({"llama.attention.causal": False}, "llama.attention.causal (False)"),
        ({"llama.something.new": 1}, "llama.something.new (1)"),
        ({"llama.rope.something": 1}, "llama.rope.something (1)"),
        ({"llama.rope.scaling.type": "su"}, "llama.rope.scaling.type (su"),
        ({"llama.rope.scaling.attn_factor": 1.5}, "llama.rope.scaling.attn_factor (1.5)"),
        (
            YARN | {"llama.rope.scaling.yarn_ext_factor": 0.5},
            "llama.rope.scaling.yarn_ext_factor (0.5)",
        ),
        ({"llama.rope.dimension_count": HEAD // 2}, "llama.rope.dimension_count (4 of 8)"),
        ({"tokenizer.ggml.padding_token_id": 99}, "padding_token_id is 99, and the file's tokens end at 98;"),
        ({"general.type": "adapter"}, "general.type is 'adapter'"),
        ({"split.count": 2, "split.no": 0}, "piece 1 of 2 of a model. Join them with `llama-gguf-split --merge"),
    ],
)  # fmt: skip
def test_a_key_that_the_configuration_cannot_say_is_named(convert: Convert, keys: Any, said: str) -> None:
    assert said in refusal(convert, keys=keys)


def test_a_file_without_a_tokenizer_is_refused(convert: Convert, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf.GGUFWriter, "add_token_list", lambda writer, tokens: None)
    assert "holds no tokenizer (tokenizer.ggml.tokens)" in refusal(convert)


@pytest.mark.parametrize(("dtype", "width"), [("float32", 4), ("bfloat16", 2)])
def test_the_disk_must_have_room_for_what_the_weights_become(convert: Convert, dtype: str, width: int) -> None:
    """Whatever they take in the file."""
    size = width * sum(values.size for values in tiny_tensors(99, tied=True).values() if values is not None)
    assert "This needs 0.0 GB of disk" in refusal(convert, dtype=dtype, room=size - 1)
    convert(dtype=dtype, room=size)


def test_keys_that_change_nothing_do_no_harm(convert: Convert) -> None:
    folder = convert(
        keys={
            "llama.attention.scale": HEAD**-0.5,
            "llama.attention.key_length": HEAD,
            "llama.logit_scale": 1.0,
            "llama.expert_count": 0,
            "llama.rope.scaling.type": "none",
            "llama.rope.scaling.finetuned": True,
            "llama.rope.dimension_count": HEAD,
            "split.count": 1,
            "quantize.imatrix.file": "somewhere",
        }
    )
    assert AutoConfig.from_pretrained(folder).rope_parameters["rope_type"] == "default"


def llama3_factors(factor: float, low: float, high: float, original: float) -> np.ndarray:
    """As the converters of llama.cpp write them."""
    found = []
    for frequency in FREQUENCIES:
        length = 2 * math.pi / frequency
        if length < original / high:
            found.append(1.0)
        elif length > original / low:
            found.append(factor)
        else:
            smooth = (original / length - low) / (high - low)
            found.append(1 / ((1 - smooth) / factor + smooth))
    return array(*found)


def rotary(folder: Path) -> tuple[np.ndarray, float]:
    """Frequencies and the factor on cosines and sines of the model as transformers loads it."""
    embedding = AutoModelForCausalLM.from_pretrained(folder).model.rotary_emb
    return embedding.inv_freq.double().numpy(), embedding.attention_scaling


@pytest.mark.parametrize(
    "factors",
    [
        llama3_factors(8, 1, 4, 8192),
        llama3_factors(32, 1, 4, 8192),
        llama3_factors(16, 1, 30, 16384),
        llama3_factors(4, 2, 64, 4096),
        array(4, 4, 4, 4),
        array(1, 1, 1, 1),
    ],
    ids=["3.1", "3.2", "two between", "another low", "all alike", "ones"],
)
def test_frequency_factors_become_the_scaling_that_gave_them(convert: Convert, factors: np.ndarray) -> None:
    found, scale = rotary(convert(tensors={"rope_freqs.weight": factors}))
    np.testing.assert_allclose(found, FREQUENCIES / factors, rtol=1e-4)
    assert scale == 1.0


def test_linear_scaling_by_its_new_and_its_old_key(convert: Convert) -> None:
    keys = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    np.testing.assert_allclose(rotary(convert(keys=keys))[0], FREQUENCIES / 4, rtol=1e-5)
    np.testing.assert_allclose(
        rotary(convert(keys={"llama.rope.scale_linear": 2.0}))[0], FREQUENCIES / 2, rtol=1e-5
    )


@pytest.mark.parametrize("attention", [None, 0.8])
def test_yarn_is_what_llama_cpp_computes(convert: Convert, attention: float | None) -> None:
    factor, original = 8.0, 64
    keys = {
        "llama.rope.scaling.type": "yarn",
        "llama.rope.scaling.factor": factor,
        "llama.rope.scaling.original_context_length": original,
    } | ({"llama.rope.scaling.attn_factor": attention} if attention else {})
    found, scale = rotary(convert(keys=keys))

    def dimension(turns: float) -> float:
        return HEAD * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(10_000.0))

    low, high = max(0, math.floor(dimension(32))), min(HEAD - 1, math.ceil(dimension(1)))
    ramp = 1 - np.clip((np.arange(HEAD // 2) - low) / max(0.001, high - low), 0, 1)
    np.testing.assert_allclose(found, FREQUENCIES / factor * (1 - ramp) + FREQUENCIES * ramp, rtol=1e-5)
    assert scale == pytest.approx((attention or 1.0) * (1 + 0.1 * math.log(factor)))


def test_long_and_short_factors(convert: Convert) -> None:
    short, long = array(1, 1.1, 1.2, 1.3), array(1, 2, 3, 4)
    keys = {"llama.rope.scaling.original_context_length": 32, "llama.rope.scaling.attn_factor": 1.19}
    tensors = {"rope_factors_short.weight": short, "rope_factors_long.weight": long}
    folder = convert(keys=keys, tensors=tensors)
    found, scale = rotary(folder)
    np.testing.assert_allclose(found, FREQUENCIES / short, rtol=1e-5)
    assert scale == pytest.approx(1.19)
    assert AutoConfig.from_pretrained(folder).rope_parameters["long_factor"] == pytest.approx(long.tolist())


def test_other_values_than_the_library_expects_reach_the_configuration(convert: Convert) -> None:
    config = AutoConfig.from_pretrained(convert(keys={"llama.rope.freq_base": 500_000.0}))
    assert (config.rope_parameters["rope_theta"], config.rms_norm_eps) == (500_000.0, pytest.approx(1e-5))


@pytest.mark.parametrize(("dtype", "value", "said"), [
    ("float16", 1e6, "has numbers too large for float16; register it with the dtype bfloat16 or float32"),
    ("bfloat16", 3.4e38, "has numbers too large for bfloat16; register it with the dtype float32"),
    ("bfloat16", np.nan, "has values that are not numbers"),
    ("float32", np.inf, "has values that are not numbers"),
])  # fmt: skip
def test_numbers_that_are_none_are_named(convert: Convert, dtype: str, value: float, said: str) -> None:
    weights = np.zeros((HIDDEN, HIDDEN), np.float32)
    weights[3, 4] = value
    assert f"blk.0.attn_v.weight {said}" in refusal(convert, dtype=dtype, tensors={"blk.0.attn_v.weight": weights})


FLAG = "tokenizer.ggml.add_bos_token"
END = "tokenizer.ggml.add_eos_token"


@pytest.mark.parametrize(
    ("pieces", "keys", "before", "after"),
    [
        (False, {}, [], []),
        (False, {FLAG: True}, [0], []),
        (False, {FLAG: False}, [], []),
        (False, {"tokenizer.ggml.pre": "llama-bpe"}, [0], []),
        (False, {"tokenizer.ggml.pre": "llama-bpe", FLAG: False}, [], []),
        (False, {END: True}, [], [0]),
        (True, {}, [1], []),
        (True, {FLAG: True, END: True}, [1], [2]),
        (True, {FLAG: False}, [], []),
    ],
)
def test_a_text_begins_and_ends_as_the_file_says(
    convert: Convert, pieces: bool, keys: Any, before: list[int], after: list[int]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(convert(pieces=pieces, keys=keys))
    bare = tokenizer("the thread", add_special_tokens=False)["input_ids"]
    assert tokenizer("the thread")["input_ids"] == [*before, *bare, *after]
    assert tokenizer.decode(bare) == "the thread"


@pytest.mark.parametrize("space", [True, False])
def test_a_space_is_before_a_text_where_the_file_says_so(convert: Convert, space: bool) -> None:
    tokenizer = AutoTokenizer.from_pretrained(
        convert(pieces=True, keys={"tokenizer.ggml.add_space_prefix": space})
    )
    ids = tokenizer("the", add_special_tokens=False)["input_ids"]
    assert "".join(tokenizer.convert_ids_to_tokens(ids)) == ("▁the" if space else "the")
    assert tokenizer.decode(ids) == "the"


def test_a_tokenizer_that_would_be_another_is_refused(convert: Convert) -> None:
    with pytest.raises(ValueError, match="mystery"):
        convert(keys={"tokenizer.ggml.model": "mystery"})


def test_a_chat_template_is_kept(convert: Convert) -> None:
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    assert (
        AutoTokenizer.from_pretrained(convert(keys={"tokenizer.chat_template": template})).chat_template
        == template
    )


@torch.no_grad()
def test_a_dropped_scaling_would_change_the_logits(convert: Convert) -> None:
    ids = torch.arange(1, 65)[None]
    plain = AutoModelForCausalLM.from_pretrained(convert())(ids).logits
    scaled = AutoModelForCausalLM.from_pretrained(convert(tensors={"rope_freqs.weight": array(4, 4, 4, 4)}))(
        ids
    ).logits
    assert (plain - scaled).norm() > 0.01 * plain.norm()


def norms(*names: str, size: int) -> dict[str, np.ndarray]:
    return {f"blk.{block}.{name}.weight": np.full(size, 1.5, np.float32) for block in range(2) for name in names}


def gemma(**keys: Any) -> dict[str, Any]:
    named = {
        "attention.key_length": HEAD,
        "attention.value_length": HEAD,
        "attention.sliding_window": 16,
        "rope.freq_base": 1_000_000.0,
        "final_logit_softcapping": 30.0,
        **keys,
    }
    own = norms("attn_q_norm", "attn_k_norm", size=HEAD) | norms(
        "post_attention_norm", "post_ffw_norm", size=HIDDEN
    )
    return {
        "architecture": "gemma3",
        "keys": {f"gemma3.{key}": value for key, value in named.items()},
        "tensors": own,
        "pieces": True,
    }


def test_gemma_scales_the_layers_that_see_everything(convert: Convert) -> None:
    config = AutoConfig.from_pretrained(
        convert(**gemma(**{"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}))
    )
    whole, local = config.rope_parameters["full_attention"], config.rope_parameters["sliding_attention"]
    assert (whole["rope_type"], whole["rope_theta"], whole["factor"]) == ("linear", 1_000_000.0, 8.0)
    assert (local["rope_type"], local["rope_theta"]) == ("default", 10_000.0)
    assert (config.sliding_window, config.head_dim, config.final_logit_softcapping) == (16, HEAD, 30.0)


def test_gemma_says_how_its_scores_are_scaled(convert: Convert) -> None:
    """Without the key, llama.cpp divides by the root of a head's features."""
    assert AutoConfig.from_pretrained(convert(**gemma())).query_pre_attn_scalar == HEAD
    other = convert(**gemma(**{"attention.scale": 0.25}))
    assert AutoConfig.from_pretrained(other).query_pre_attn_scalar == pytest.approx(16)


def test_gemmas_tokenizer_puts_no_space_and_bos_before_a_text(convert: Convert) -> None:
    made = gemma()
    made["keys"] |= {"tokenizer.ggml.add_space_prefix": False, FLAG: True}
    tokenizer = AutoTokenizer.from_pretrained(convert(**made))
    ids = tokenizer("the")["input_ids"]
    assert (ids[0], tokenizer.convert_ids_to_tokens(ids[1])) == (1, "th")
    runs = tokenizer.convert_ids_to_tokens(tokenizer("a  a")["input_ids"][1:])
    assert runs == ["a", "▁▁", "a"], "a run of spaces is one token"


def test_qwen_with_biases_and_its_own_heads(convert: Convert) -> None:
    biases = {f"blk.{b}.attn_{part}.bias": np.ones(HIDDEN, np.float32) for b in range(2) for part in "qkv"}
    folder = convert(architecture="qwen2", tensors=biases)
    assert AutoModelForCausalLM.from_pretrained(folder).model.layers[0].self_attn.q_proj.bias.min() == 1
    assert "blk.1.attn_v.bias" in refusal(
        convert, architecture="qwen2", tensors=biases | {"blk.1.attn_v.bias": None}
    )
    config = AutoConfig.from_pretrained(
        convert(architecture="qwen3", tensors=norms("attn_q_norm", "attn_k_norm", size=HEAD))
    )
    assert config.head_dim == HEAD


def test_phi_with_its_long_and_short_factors(convert: Convert) -> None:
    """Its projections are put together; its window and its first context are in keys of their own."""
    draw = np.random.default_rng(1)
    joined = {"attn_qkv": (3 * HIDDEN, HIDDEN), "ffn_up": (2 * INNER, HIDDEN)}
    tensors: dict[str, Any] = {
        f"blk.{b}.{name}.weight": draw.normal(size=shape).astype(np.float32)
        for b in range(2)
        for name, shape in joined.items()
    }
    apart = ("attn_q", "attn_k", "attn_v", "ffn_gate")
    tensors |= {f"blk.{b}.{name}.weight": None for b in range(2) for name in apart}
    tensors |= {"rope_factors_short.weight": array(1, 1, 2, 2), "rope_factors_long.weight": array(1, 2, 3, 4)}
    keys = {
        "rope.scaling.original_context_length": 64,
        "rope.scaling.attn_factor": 1.1,
        "attention.sliding_window": 32,
    }
    folder = convert(
        architecture="phi3",
        pieces=True,
        tensors=tensors,
        keys={f"phi3.{key}": value for key, value in keys.items()},
    )
    found, scale = rotary(folder)
    np.testing.assert_allclose(found, FREQUENCIES / array(1, 1, 2, 2), rtol=1e-5)
    assert scale == pytest.approx(1.1)
    config = AutoConfig.from_pretrained(folder)
    assert (config.sliding_window, config.original_max_position_embeddings) == (32, 64)
