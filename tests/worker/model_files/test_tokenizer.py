"""Tokenizers whose rules multiply a text are refused by their rules alone, and real ones' rules are not."""

import base64
from typing import Any

import pytest

from worker.model_files.errors import IntakeError
from worker.model_files.tokenizer import check_growth


def replace(pattern: Any, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def doubling(letter: str) -> dict[str, Any]:
    return replace({"String": letter}, letter * 2)


def sequence(*rules: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(rules)}


def table(*words: bytes, trie: int = 8) -> dict[str, Any]:
    data = trie.to_bytes(4, "little") + bytes(8) + b"\0".join(words) + b"\0"
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False}
BOMBS: dict[str, dict[str, Any]] = {
    "one rule": {"normalizer": replace({"String": "a"}, "a" * 100_000)},
    "forty that double": {"normalizer": sequence(*(doubling("a") for _ in range(40)))},
    "of many letters": {"normalizer": sequence(*(replace({"String": a}, b * 9) for a, b in ("ab", "bc", "cd")))},
    "in sequences of sequences": {
        "normalizer": sequence(*(sequence(doubling("a"), doubling("a")) for _ in "abc"))
    },
    "a regex": {"normalizer": replace({"Regex": "."}, "aaaaaaaaaaaaaaaaaaaa")},
    "what matches nothing": {"normalizer": replace({"String": ""}, "a" * 100)},
    "a prefix": {"normalizer": {"type": "Prepend", "prepend": "a" * 10**6}},
    "a table": {"normalizer": table(b"a", b"b" * 10**6)},
    "a table that is cut off": {"normalizer": table(b"a", trie=10**9)},
    "bytes of bytes": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTE_LEVEL] * 20}},
    "in both parts": {
        "normalizer": sequence(*(doubling("a") for _ in range(4))),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTE_LEVEL]},
    },
    "ten thousand rules": {"normalizer": sequence(*({"type": "Lowercase"} for _ in range(10_000)))},
    "padding": {"padding": {"strategy": {"Fixed": 10**9}}},
    "padding to a multiple": {"padding": {"strategy": "BatchLongest", "pad_to_multiple_of": 10**9}},
    "a template": {"post_processor": {"type": "TemplateProcessing", "single": [{}] * 10_000}},
    "a token of many": {"post_processor": {"special_tokens": {"<s>": {"ids": [1] * 10_000}}}},
}

REAL: dict[str, dict[str, Any]] = {
    "none": {"normalizer": None, "pre_tokenizer": None, "post_processor": None, "padding": None},
    "Llama 2": {"normalizer": sequence({"type": "Prepend", "prepend": "▁"}, replace({"String": " "}, "▁"))},
    "Llama 3": {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {}}, BYTE_LEVEL]},
        "post_processor": {"type": "Sequence", "processors": [BYTE_LEVEL, {"single": [{}, {}]}]},
    },
    "T5": {
        "normalizer": sequence(table(b"a", "صلى الله عليه وسلم".encode())),
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"},
    },
    "XLM": {"normalizer": sequence(table(b"..."), replace({"Regex": " {2,}"}, "▁"))},
    "Qwen": {"normalizer": {"type": "NFC"}, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTE_LEVEL]}},
    "nonsense, which the library refuses": {"normalizer": 5, "pre_tokenizer": [], "post_processor": "x"},
}


@pytest.mark.parametrize("tokenizer", BOMBS.values(), ids=BOMBS)
def test_rules_that_multiply_are_refused(tokenizer: dict[str, Any]) -> None:
    with pytest.raises(IntakeError) as caught:
        check_growth(tokenizer)
    assert caught.value.code == "tokenizer_grows"
    assert "save_pretrained" in caught.value.message


@pytest.mark.parametrize("tokenizer", REAL.values(), ids=REAL)
def test_rules_of_real_tokenizers_are_not(tokenizer: dict[str, Any]) -> None:
    check_growth(tokenizer)
