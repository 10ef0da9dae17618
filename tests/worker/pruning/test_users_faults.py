"""What is wrong with a model or a text is its owner's to mend: one error that names it, never one of ours.

Slow: each fault lies in a file that intake, plan and job read by themselves.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from tests.tiny import make_tiny, make_tokenizer, put_before
from tests.worker.pruning.conftest import Request, domain, prune
from worker.pruning import PruningJob, UserError, inspect, plan
from worker.pruning.calibration.tokenizer import Tokenizer

pytestmark = pytest.mark.slow

Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("llama", tmp_path_factory.mktemp("models") / "llama")


def copy(model: Path, folder: Path) -> Path:
    folder.mkdir()
    for path in model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def written(name: str, content: str | bytes) -> Change:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / name).write_bytes(data) and None  # type: ignore[func-returns-value]


def config(**fields: Any) -> Change:
    return changed("config.json", lambda document: document.update(fields))


def tokenizer(**fields: Any) -> Change:
    return changed("tokenizer.json", lambda document: document.update(fields))


def vocabulary(**tokens: Any) -> Change:
    return changed("tokenizer.json", lambda document: document["model"]["vocab"].update(tokens))


def changed(name: str, change: Callable[[dict[str, Any]], None]) -> Change:
    def apply(folder: Path) -> None:
        document = json.loads((folder / name).read_text())
        change(document)
        (folder / name).write_text(json.dumps(document))

    return apply


def cut(name: str, length: int) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:length]) and None  # type: ignore[func-returns-value]


def rope(**fields: Any) -> Change:
    return config(rope_parameters={"rope_type": "default", "rope_theta": 1e4, **fields})


STRIDE = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 5}
PARENTHESIS = {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}
READ: dict[str, tuple[Change, str]] = {
    "tokenizer cut": (cut("tokenizer.json", 500), "tokenizer.json is not strict JSON"),
    "tokenizer {}": (written("tokenizer.json", "{}"), "the tokenizer cannot be read"),
    "tokenizer []": (written("tokenizer.json", "[]"), "tokenizer.json must hold one JSON object"),
    "tokenizer null": (written("tokenizer.json", "null"), "tokenizer.json must hold one JSON object"),
    "tokenizer bytes": (written("tokenizer.json", b"\xff\xfe"), "tokenizer.json is not strict JSON"),
    "tokenizer model": (tokenizer(model=None), "the tokenizer cannot be read"),
    "tokenizer regex": (tokenizer(pre_tokenizer=PARENTHESIS), "the tokenizer cannot be read"),
    "tokenizer stride": (tokenizer(truncation=STRIDE), "the tokenizer cannot be read"),
    "negative id": (vocabulary(a=-1), "the tokenizer cannot be read"),
    "fractional id": (vocabulary(a=1.5), "the tokenizer cannot be read"),
    "its config cut": (written("tokenizer_config.json", "{"), "the tokenizer cannot be read"),
    "its config []": (written("tokenizer_config.json", "[]"), "the tokenizer cannot be read"),
    "its class": (written("tokenizer_config.json", '{"tokenizer_class": 3}'), "the tokenizer cannot be read"),
    "special tokens": (written("special_tokens_map.json", "["), "the tokenizer cannot be read"),
    "config deep": (written("config.json", "[" * 10_000), "config.json is not strict JSON"),
    "config nan": (written("config.json", '{"model_type": NaN}'), "config.json is not strict JSON"),
    "activation": (config(hidden_act="nope"), "config.json describes no model"),
    "head of nothing": (config(head_dim=0), "config.json describes no model"),
    "labels": (config(num_labels=10**9), "config.json has 1000000000 for num_labels"),
    "rope kind": (rope(rope_type="nope"), "config.json describes no model"),
    "rope theta": (rope(rope_theta=0.0), r"config.json gives model.rotary_emb.*inv_freq values that are not"),
    "rope negative": (rope(rope_theta=-1.0), r"config.json gives model.rotary_emb.*inv_freq values that are not"),
    "rope factor": (rope(rope_type="linear", factor=0.0), r"config.json gives model.rotary_emb.*inv_freq values"),
    "other width": (config(hidden_size=48), "has shape"),
    "no vocabulary": (config(vocab_size=0), "has shape"),
    "sizes without end": (config(hidden_size=2**33), "config.json describes tensors larger than"),
    "header": (written("model.safetensors", b"\x10" + bytes(30)), "model.safetensors is not a safetensors file"),
    "nothing": (written("model.safetensors", b""), "model.safetensors is not a safetensors file"),
}


@pytest.mark.parametrize("case", READ)
def test_a_file_that_cannot_be_read_is_refused_by_whoever_reads_it(
    case: str, model: Path, tmp_path: Path, request_for: Request
) -> None:
    change, message = READ[case]
    folder = copy(model, tmp_path / "model")
    change(folder)
    request = request_for(model=str(folder))
    for ask in (lambda: plan(PruningJob.from_dict(request)), lambda: inspect(folder), lambda: prune(request)):
        with pytest.raises(UserError, match=message) as caught:
            ask()
        assert caught.value.code in ("unsupported_model", "invalid_checkpoint")


class Panic(BaseException):
    """As compiled code raises it: no Exception."""


def test_a_panic_of_a_tokenizer_is_its_files_fault(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def panic(*args: Any, **options: Any) -> None:
        raise Panic("index out of bounds")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", panic)
    with pytest.raises(UserError, match="the tokenizer cannot be read: index out of bounds"):
        Tokenizer(model)


NO_MEMORY = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
TROUBLE: dict[str, tuple[str, Exception]] = {
    "disk": ("transformers.AutoTokenizer.from_pretrained", OSError(5, "Input/output error")),
    "memory for a tokenizer": ("transformers.AutoTokenizer.from_pretrained", NO_MEMORY),
    "memory for a forward pass": ("torch.nn.Embedding.forward", NO_MEMORY),
    "memory for a block": ("torch.nn.Linear.forward", NO_MEMORY),
}


@pytest.mark.parametrize("case", TROUBLE)
def test_trouble_of_the_machine_is_not_the_files(case: str, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, trouble = TROUBLE[case]

    def fail(*args: Any, **options: Any) -> None:
        raise trouble

    monkeypatch.setattr(place, fail)
    with pytest.raises(type(trouble)) as caught:
        inspect(model)
    assert caught.value is trouble


def smaller(model: Path, folder: Path, rows: int) -> Path:
    """The model with so many rows of its embedding."""
    copy(model, folder)
    config(vocab_size=rows)(folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:rows].clone()
    save_file(tensors, path, {"format": "pt"})
    return folder


@pytest.mark.parametrize("method", ["wanda", "admm"])
def test_a_token_beyond_the_embedding_is_refused_where_the_text_has_it(
    method: str, model: Path, tmp_path: Path, request_for: Request, texts: Path
) -> None:
    folder = smaller(model, tmp_path / "model", 300)
    request = request_for(model=str(folder), method={"name": method})
    with pytest.raises(
        UserError, match=r"has the token 3\d\d \('.+'\), and the model's embedding ends at 299"
    ) as caught:
        prune(request)
    assert (caught.value.code, caught.value.field) == ("unknown_token", "/domains/0/calibration")
    (said,) = plan(PruningJob.from_dict(request))["warnings"]
    assert (said["code"], said["data"]["rows"], said["data"]["highest"]) == ("tokens_beyond_rows", 300, 319)


def test_a_prefix_beyond_the_embedding_is_refused_with_the_model(
    model: Path, tmp_path: Path, request_for: Request
) -> None:
    """No text of such a tokenizer can be read: intake and plan say what every job would."""
    folder = smaller(model, tmp_path / "model", 300)
    put_before(folder, AutoTokenizer.from_pretrained(folder).convert_ids_to_tokens(310))
    request = request_for(model=str(folder))
    for attempt in (prune, lambda given: plan(PruningJob.from_dict(given)), lambda _: inspect(folder)):
        with pytest.raises(UserError, match="puts before every text the token 310") as caught:
            attempt(request)
        assert (caught.value.code, caught.value.field) == ("unknown_token", "/model")


def test_a_token_beyond_the_embedding_in_a_test_text(
    model: Path, tmp_path: Path, request_for: Request, texts: Path
) -> None:
    """Single letters are known; the calibration text has nothing else."""
    (tmp_path / "letters.txt").write_text("x y z " * 300)
    one = domain(texts, "a")
    one["dataset"] = str(tmp_path / "letters.txt")
    request = request_for(model=str(smaller(model, tmp_path / "model", 300)), domains=[one])
    with pytest.raises(UserError) as caught:
        prune(request)
    assert (caught.value.code, caught.value.field) == ("unknown_token", "/domains/0/evaluation")
    request["domains"][0]["evaluation"] = None
    assert prune(request).summary.sparsity == 0.5


POSITIONS: dict[str, tuple[str, dict[str, Any], str]] = {
    "mpt": ("mpt", {"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 16}, "the model's max_seq_len"),
    # Of 32 positions two are never used.
    "roberta": (
        "roberta",
        {"is_decoder": True, "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
        | {"intermediate_size": 64, "max_position_embeddings": 32},
        "the model does not run on windows of 32 tokens",
    ),
}


@pytest.mark.parametrize("family", POSITIONS)
def test_windows_that_a_model_is_not_made_for(family: str, tmp_path: Path, request_for: Request) -> None:
    kind, shape, message = POSITIONS[family]
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, vocab_size=320, **shape))
    made.save_pretrained(tmp_path / "model")
    make_tokenizer(tmp_path / "model")
    with pytest.raises(UserError, match=message):
        prune(request_for(model=str(tmp_path / "model")))


ODD: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "model.layers.1.mlp.gate_proj.weight": torch.zeros_like,
    "model.layers.1.input_layernorm.weight": torch.zeros_like,
    "model.embed_tokens.weight": torch.zeros_like,
    "model.layers.1.self_attn.q_proj.weight": lambda weight: weight * 1e-40,
}


@pytest.mark.parametrize("method", ["wanda", "admm", "sparsegpt", "alps"])
@pytest.mark.parametrize("name", ODD)
def test_odd_numbers_are_pruned_like_others(
    name: str, method: str, model: Path, tmp_path: Path, request_for: Request
) -> None:
    folder = copy(model, tmp_path / "model")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors[name] = ODD[name](tensors[name])
    save_file(tensors, path, {"format": "pt"})
    assert prune(request_for(model=str(folder), method={"name": method})).summary.sparsity >= 0.5


@pytest.mark.parametrize("content", ["e" * 4000, " \n" * 3000, "\0" * 3000, "\U0001f600" * 2000])
def test_odd_texts_are_texts(content: str, model: Path, tmp_path: Path, request_for: Request, texts: Path) -> None:
    """One token again and again makes a Gram matrix of rank one."""
    (tmp_path / "odd.txt").write_text(content)
    one = domain(texts, "a")
    one["dataset"] = one["evaluation"] = str(tmp_path / "odd.txt")
    request = request_for(model=str(model), domains=[one], method={"name": "admm"})
    assert prune(request).summary.sparsity == 0.5
