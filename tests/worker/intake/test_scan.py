"""The scan of a whole model folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from worker.intake.scan import MAX_NAME, Warn, scan_small_files, scan_weights
from worker.intake.sources import FolderSource
from worker.model_files.choose import INDEX, SINGLE, small_files, weight_files, weights_left
from worker.model_files.errors import IntakeError
from worker.pruning.model.checkpoint import Checkpoint


def scan(folder: Path, warn: Warn | None = None) -> tuple[Any, Any]:
    """What an intake does before it stores anything."""
    source = FolderSource(folder, folder)
    listing = source.listing()
    files = source.fetch(small_files(listing))
    description = scan_small_files(files)
    files |= source.fetch(weight_files(listing, folder / INDEX))
    weights = scan_weights(files, lambda: None, warn or refuse_to_warn)
    return description, (weights.dtype(), weights.parameters)


def refuse_to_warn(code: str, message: str, **data: Any) -> None:
    raise AssertionError(code)


def shard(folder: Path) -> dict[str, Any]:
    """Split the model into two shards with an index, which is returned."""
    tensors = load_file(folder / SINGLE)
    names = sorted(tensors)
    parts = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for file, keys in parts.items():
        save_file({key: tensors[key] for key in keys}, folder / file)
    (folder / SINGLE).unlink()
    total = sum(tensor.nbytes for tensor in tensors.values())
    weight_map = {key: file for file, keys in parts.items() for key in keys}
    return {"metadata": {"total_size": total}, "weight_map": weight_map}


def write_index(folder: Path, index: Any) -> None:
    (folder / INDEX).write_text(json.dumps(index))


def code(folder: Path) -> str:
    with pytest.raises(IntakeError) as caught:
        scan(folder)
    assert str(folder) not in caught.value.message
    return caught.value.code


def test_a_model_in_one_file(tiny: Path) -> None:
    description, weights = scan(tiny)
    assert (description.architecture, description.blocks) == ("LlamaForCausalLM", 2)
    expected = sum(tensor.numel() for tensor in load_file(tiny / SINGLE).values())
    assert weights == ("float32", expected)


def test_a_model_in_shards(tiny: Path) -> None:
    before = scan(tiny)
    write_index(tiny, shard(tiny))
    assert scan(tiny) == before


def test_files_that_are_no_part_of_the_model_are_not_taken(tiny: Path) -> None:
    for name in ("pytorch_model.bin", "modeling_evil.py", "consolidated.safetensors", ".hidden.json", "README.md"):
        (tiny / name).write_bytes(b"anything")
    listing = FolderSource(tiny, tiny).listing()
    taken = {*small_files(listing), *weight_files(listing, tiny / INDEX)}
    assert taken == {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", SINGLE}
    assert weights_left(listing, taken) == ["consolidated.safetensors"]


TERMS = (
    *("LICENSE", "License.txt", "LICENCE.md", "MODEL_LICENSE", "LICENSE.llama3", "LICENSE-APACHE", "COPYING"),
    *("NOTICE", "Notice.txt", "THIRD_PARTY_NOTICES.md", "USE_POLICY.md"),
)
NO_TERMS = (
    "license.py",
    "notice.bin",
    "README.md",
    "relicensed.txt",
    "LICENSE.safetensors",
    ".license",
    "license.json",
)


def test_the_terms_of_a_model_go_with_it(tiny: Path) -> None:
    before = set(small_files(FolderSource(tiny, tiny).listing()))
    for name in (*TERMS, *NO_TERMS):
        (tiny / name).write_text("terms")
    assert set(small_files(FolderSource(tiny, tiny).listing())) == before | set(TERMS)


INDEX_LIES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "a shard outside": (lambda index: first(index, "../b.safetensors"), "weight_map_path"),
    "an absolute shard": (lambda index: first(index, "/etc/b.safetensors"), "weight_map_path"),
    "a pickled shard": (lambda index: first(index, "b.bin"), "weight_map_path"),
    "a shard that is a number": (lambda index: first(index, 3), "weight_map_path"),
    "a shard with a backslash": (lambda index: first(index, "..\\b.safetensors"), "weight_map_path"),
    "a shard in a folder": (lambda index: first(index, "deep/a.safetensors"), "weight_map_path"),
    "a shard of another ending": (lambda index: first(index, "a.SAFETENSORS"), "weight_map_path"),
    "a missing shard": (lambda index: first(index, "c.safetensors"), "shard_missing"),
    "no weight_map": (lambda index: index.pop("weight_map"), "index_invalid"),
    "an empty weight_map": (lambda index: index["weight_map"].clear(), "index_invalid"),
}


def first(index: dict[str, Any], file: Any) -> None:
    index["weight_map"][min(index["weight_map"])] = file


@pytest.mark.parametrize("name", INDEX_LIES)
def test_an_index_that_lies_is_refused(name: str, tiny: Path) -> None:
    change, expected = INDEX_LIES[name]
    index = shard(tiny)
    change(index)
    write_index(tiny, index)
    assert code(tiny) == expected


ERRORS: dict[str, tuple[Callable[[dict[str, Any]], Any], list[str]]] = {
    "the wrong shard": (lambda index: first(index, "b.safetensors"), ["index_mismatch"]),
    "a tensor that is nowhere": (lambda i: i["weight_map"].update(ghost="a.safetensors"), ["index_mismatch"]),
    "a tensor left out": (lambda i: i["weight_map"].pop("model.norm.weight"), ["index_mismatch"]),
    "a wrong total": (lambda index: index["metadata"].update(total_size=1), ["index_total_size"]),
    "a total in words": (lambda index: index["metadata"].update(total_size="1 GB"), ["index_total_size"]),
    "no metadata": (lambda index: index.pop("metadata"), []),
    "a leading ./": (lambda index: first(index, "./a.safetensors"), []),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_an_index_gets_wrong_about_its_files_is_said(name: str, tiny: Path) -> None:
    before = scan(tiny)
    change, expected = ERRORS[name]
    index = shard(tiny)
    change(index)
    write_index(tiny, index)
    said: list[str] = []
    assert scan(tiny, lambda code, message, **data: said.append(code)) == before
    assert said == expected
    assert (
        Checkpoint.open(tiny).tensors.keys()
        == (load_file(tiny / "a.safetensors") | load_file(tiny / "b.safetensors")).keys()
    )


def test_an_empty_shard_does_no_harm(tiny: Path) -> None:
    before = scan(tiny)
    index = shard(tiny)
    save_file({}, tiny / "c.safetensors")
    index["weight_map"]["ghost"] = "c.safetensors"
    write_index(tiny, index)
    assert scan(tiny, lambda code, message, **data: None) == before
    assert Checkpoint.open(tiny).tensors


def test_a_tensor_in_two_shards_is_refused(tiny: Path) -> None:
    index = shard(tiny)
    both = load_file(tiny / "a.safetensors") | load_file(tiny / "b.safetensors")
    save_file(both, tiny / "b.safetensors")
    write_index(tiny, index)
    assert code(tiny) == "duplicate_tensor"


def test_a_single_file_comes_before_shards_as_in_transformers(tiny: Path) -> None:
    before = scan(tiny)
    whole = load_file(tiny / SINGLE)
    write_index(tiny, shard(tiny))
    save_file({name: tensor + 1 for name, tensor in whole.items()}, tiny / SINGLE, {"format": "pt"})
    assert scan(tiny) == before
    loaded = AutoModelForCausalLM.from_pretrained(tiny).state_dict()
    ours = Checkpoint.open(tiny)
    for name, tensor in ours.read(ours.tensors).items():
        assert torch.equal(tensor, loaded[name])
    listing = FolderSource(tiny, tiny).listing()
    assert INDEX not in small_files(listing)
    assert weights_left(listing, [SINGLE]) == ["a.safetensors", "b.safetensors", INDEX]


FOLDER_LIES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), "config_missing"),
    "pickles only": (lambda folder: (folder / SINGLE).rename(folder / "pytorch_model.bin"), "pickled_weights"),
    "a GGUF only": (lambda folder: (folder / SINGLE).rename(folder / "model.gguf"), "gguf_folder"),
    "no weights": (lambda folder: (folder / SINGLE).unlink(), "weights_missing"),
    "weights of another name": (
        lambda folder: (folder / SINGLE).rename(folder / "x.safetensors"),
        "weights_missing",
    ),
    "a variant only": (
        lambda folder: (folder / SINGLE).rename(folder / "model.fp16.safetensors"),
        "weights_missing",
    ),
    "an adapter only": (
        lambda folder: (folder / SINGLE).rename(folder / "adapter_model.safetensors"),
        "weights_missing",
    ),
    "Mistral's own layout": (
        lambda folder: (folder / SINGLE).rename(folder / "consolidated.safetensors"),
        "weights_missing",
    ),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer_missing"),
    "a tokenizer that is no JSON": (lambda folder: (folder / "tokenizer.json").write_text("{"), "invalid_json"),
    "a tokenizer with code": (
        lambda folder: (folder / "tokenizer_config.json").write_text(
            '{"auto_map": {"AutoTokenizer": ["x.Y", null]}}'
        ),
        "auto_map",
    ),
    "a truncated file": (lambda folder: cut(folder / SINGLE), "safetensors_invalid"),
    "a tensor's name with a line break": (lambda folder: add(folder, "a\nb"), "safetensors_invalid"),
    "a very long name of a tensor": (lambda folder: add(folder, "a" * (MAX_NAME + 1)), "safetensors_invalid"),
    "a pickle by another name": (
        lambda folder: (folder / SINGLE).write_bytes(b"\x80\4" * 99),
        "safetensors_invalid",
    ),
}


def add(folder: Path, name: str) -> None:
    save_file({**load_file(folder / SINGLE), name: torch.zeros(1)}, folder / SINGLE)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("name", FOLDER_LIES)
def test_a_folder_that_is_no_model_is_refused(name: str, tiny: Path) -> None:
    change, expected = FOLDER_LIES[name]
    change(tiny)
    assert code(tiny) == expected


def test_a_slow_tokenizer_that_converts_by_itself_is_taken(tiny: Path) -> None:
    (tiny / "tokenizer.json").unlink()
    (tiny / "vocab.json").write_text("{}")
    (tiny / "merges.txt").write_text("")
    assert scan(tiny)[0].blocks == 2


def rewrite(folder: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
    tensors = {name: change(name, tensor) for name, tensor in load_file(folder / SINGLE).items()}
    save_file(tensors, folder / SINGLE)


def test_the_dtype_is_that_of_the_matrices(tiny: Path) -> None:
    rewrite(tiny, lambda _, tensor: tensor.bfloat16() if tensor.ndim == 2 else tensor)
    assert scan(tiny)[1][0] == "bfloat16"


def test_half_of_the_matrices_in_another_dtype_is_refused(tiny: Path) -> None:
    rewrite(tiny, lambda name, tensor: tensor.bfloat16() if "mlp" in name else tensor)
    assert code(tiny) == "mixed_dtypes"


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.float64])
def test_matrices_of_other_dtypes_are_refused(dtype: torch.dtype, tiny: Path) -> None:
    rewrite(tiny, lambda name, tensor: tensor.to(dtype) if "q_proj" in name else tensor)
    assert code(tiny) == "unsupported_dtype"


def test_masks_and_positions_of_old_checkpoints_do_not_matter(tiny: Path) -> None:
    tensors = load_file(tiny / SINGLE)
    old = {"h.0.attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.bool), "position_ids": torch.arange(8)[None]}
    save_file(tensors | old, tiny / SINGLE)
    assert scan(tiny)[1][0] == "float32"


def test_links_must_stay_in_the_root(tiny: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.safetensors"
    shutil.move(tiny / SINGLE, outside)
    (tiny / SINGLE).symlink_to(outside)
    assert code(tiny) == "symlink_outside"
