"""GGUF files become plain safetensors folders.

Slow: the converter is a process with transformers in it.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from secateur.digests import file_sha256
from tests.worker.intake.tiny_gguf import write_tiny_gguf
from worker.intake.context import Context
from worker.intake.gguf import convert
from worker.intake.licence import CARD, read_licence
from worker.model_files.errors import IntakeError

pytestmark = pytest.mark.slow


def digests(folder: Path) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in folder.iterdir()}


def again(context: Context, name: str) -> Context:
    scratch = context.scratch / name
    scratch.mkdir()
    return replace(context, scratch=scratch)


def test_a_converted_model_is_plain_tied_and_the_same_each_time(context: Context, tmp_path: Path) -> None:
    source = write_tiny_gguf(tmp_path / "some name.gguf")
    (tmp_path / "config.json").write_text('{"auto_map": {"AutoConfig": "evil.Config"}}')
    folder = convert(source, "bfloat16", again(context, "one"))
    assert digests(folder) == digests(convert(source, "bfloat16", again(context, "two")))
    tensors = load_file(folder / "model.safetensors")
    assert "lm_head.weight" not in tensors
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert (config["tie_word_embeddings"], config["dtype"]) == (True, "bfloat16")
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer("the thin\nthread")["input_ids"]) == "the thin\nthread"


def test_an_untied_head_stays_and_the_dtype_is_the_one_named(context: Context, tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf", tied=False, keys={"tokenizer.ggml.pre": "mystery"})
    folder = convert(path, "float32", context)
    (warning,) = context.warnings
    assert (warning["code"], warning["data"]) == ("tokenizer_split", {"pre": "mystery"})
    tensors = load_file(folder / "model.safetensors")
    assert tensors["lm_head.weight"].dtype == torch.float32
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False


def test_the_licence_that_the_file_names_is_the_models(context: Context, tmp_path: Path) -> None:
    keys = {
        "general.license": "other",
        "general.license.name": "terms: ours",
        "general.license.link": "https://a/b",
    }
    folder = convert(write_tiny_gguf(tmp_path / "m.gguf", keys=keys), "float32", context)
    assert read_licence(folder / CARD) == {"id": "other", "name": "terms: ours", "link": "https://a/b"}


def test_an_architecture_that_transformers_does_not_know_is_refused(context: Context, tmp_path: Path) -> None:
    with pytest.raises(IntakeError) as caught:
        convert(write_tiny_gguf(tmp_path / "m.gguf", architecture="mystery"), "bfloat16", context)
    assert (caught.value.code, caught.value.field) == ("gguf_unsupported", "/source/path")
    assert "mystery is not supported" in caught.value.message
    assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize("data", [b"", b"PK\3\4" * 9, b"GGUF\1\0\0\0" * 9])
def test_what_is_no_gguf_is_refused_without_a_child(data: bytes, context: Context, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(data)
    with pytest.raises(IntakeError) as caught:
        convert(tmp_path / "m.gguf", "bfloat16", context)
    assert caught.value.code == "gguf_unreadable"


def test_a_truncated_gguf_is_refused(context: Context, tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "m.gguf")
    whole = path.read_bytes()
    for length, code in ((60, "gguf_unreadable"), (2000, "gguf_unreadable"), (len(whole) - 9, "gguf_unsupported")):
        path.write_bytes(whole[:length])
        with pytest.raises(IntakeError) as caught:
            convert(path, "bfloat16", again(context, str(length)))
        assert caught.value.code == code


def test_the_child_is_killed_when_the_work_must_stop(context: Context, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop() -> None:
        raise Stop

    with pytest.raises(Stop):
        convert(write_tiny_gguf(tmp_path / "m.gguf"), "bfloat16", replace(context, check=stop))
    assert not list(context.scratch.glob("conversion/converted/*"))
