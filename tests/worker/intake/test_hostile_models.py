"""Models made to fill the memory or to take for ever: each is refused as its owner's, in one attempt.

Slow: what ends them is a child's limits, or a library in one.
"""

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.tables.models import Model
from tests.worker.intake.conftest import Intake

pytestmark = pytest.mark.slow

GIB = 2**30
REFUSALS = {
    "config_too_large", "config_incomplete", "unsupported_model", "memory_limit", "cpu_time_limit", "time_limit",
    "invalid_json", "tokenizer_grows", "file_too_large", "safetensors_invalid", "unsupported_architecture",
}  # fmt: skip

Change = Callable[[Path], None]


def config(**keys: Any) -> Change:
    return edit("config.json", **keys)


def edit(name: str, **keys: Any) -> Change:
    def act(folder: Path) -> None:
        path = folder / name
        found = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**found, **keys}))

    return act


def text(name: str, content: str) -> Change:
    def act(folder: Path) -> None:
        (folder / name).write_text(content)

    return act


def header(content: bytes, length: int | None = None) -> Change:
    def act(folder: Path) -> None:
        size = len(content) if length is None else length
        (folder / "model.safetensors").write_bytes(size.to_bytes(8, "little") + content)

    return act


def replace(content: str, pattern: str = "a") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": pattern}, "content": content}


ZOO: dict[str, Change] = {
    "vocabulary": config(vocab_size=10**12),
    "hidden": config(hidden_size=10**9, intermediate_size=10**9),
    "heads": config(num_attention_heads=10**9, head_dim=10**9),
    "layers": config(num_hidden_layers=10**9),
    "layer kinds": config(layer_types=["full_attention"] * 100_000, num_hidden_layers=None),
    "labels": config(num_labels=10**9),
    "experts": config(
        model_type="mixtral", architectures=["MixtralForCausalLM"], num_local_experts=10**8, num_experts_per_tok=2
    ),
    "depth of config.json": text("config.json", '{"a":' * 100_000 + "1" + "}" * 100_000),
    "depth of tokenizer.json": text("tokenizer.json", "[" * 1_000_000 + "]" * 1_000_000),
    "objects in tokenizer.json": text("tokenizer.json", '{"a":[' + "{}," * 30_000_000 + "{}]}"),
    "a normaliser": edit("tokenizer.json", normalizer=replace("a" * 10**6)),
    "a chain of normalisers": edit(
        "tokenizer.json", normalizer={"type": "Sequence", "normalizers": [replace("aa")] * 40}
    ),
    "padding": edit("tokenizer.json", padding={"strategy": {"Fixed": 10**9}, "direction": "Right"}),
    "extra ids": edit("tokenizer_config.json", tokenizer_class="T5Tokenizer", extra_ids=10**9),
    "header's length": header(b"{}", 2**62),
    "shape": header(b'{"a":{"dtype":"F32","shape":[1000000000,1000000000],"data_offsets":[0,4]}}'),
    "dimensions": header(b'{"a":{"dtype":"F32","shape":[' + b"1," * 1_000_000 + b'1],"data_offsets":[0,4]}}'),
}


@pytest.mark.parametrize("change", ZOO.values(), ids=ZOO)
def test_a_model_that_takes_too_much_is_refused_in_one_attempt(
    change: Change, whole_intake: Intake, tiny: Path
) -> None:
    change(tiny)
    row = whole_intake(
        Model(source={"type": "folder", "path": "tiny"}), child_memory_bytes=GIB, child_seconds=60.0
    )
    assert row.state == "failed", row
    assert row.error["code"] in REFUSALS, row.error
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    assert largest < 2.5 * GIB
