"""Whole folders, packed and unpacked: all of one or none, and nothing left out in silence."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from secateur.packed import PackError, pack_folder, unpack_folder
from secateur.packed.folder import INDEX
from tests.secateur.packed.tensors import contents, half, save
from tests.tiny import make_tiny_llama


def test_a_whole_folder_with_shards_comes_back(tmp_path: Path) -> None:
    dense = make_tiny_llama(tmp_path / "dense", dtype=torch.bfloat16, tied=False)
    weights = load_file(dense / "model.safetensors")
    (dense / "model.safetensors").unlink()
    places = {}
    for number, names in enumerate((sorted(weights)[::2], sorted(weights)[1::2])):
        file = f"model-{number + 1:05d}-of-00002.safetensors"
        save(dense, {name: half(tuple(weights[name].shape), torch.bfloat16, number) for name in names}, file)
        places |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (dense / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in (".hidden", "LICENSE"):
        (dense / name).write_text(name)
    pack_folder(dense, tmp_path / "packed")
    assert not list((tmp_path / "packed").glob("model*"))
    unpack_folder(tmp_path / "packed", tmp_path / "back")
    (dense / ".hidden").unlink()
    assert contents(tmp_path / "back") == contents(dense)
    (tmp_path / "packed/packed-model-00002-of-00002.safetensors").unlink()
    with pytest.raises(PackError, match=r"packed-model-00002-of-00002\.safetensors is missing"):
        unpack_folder(tmp_path / "packed", tmp_path / "again")


def _odd_name(folder: Path) -> None:
    save(folder, {"a": torch.ones(2)}, "model (2).safetensors")


def _subfolder(folder: Path) -> None:
    save(folder / "more" / "deep", {"a": torch.ones(2)})


def _hidden(folder: Path) -> None:
    save(folder, {"a": torch.ones(2)}, ".model.safetensors")


def _broken_link(folder: Path) -> None:
    (folder / "gone.safetensors").symlink_to("nowhere")


def _missing_shard(folder: Path) -> None:
    (folder / INDEX).write_text('{"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}')


def _two_for_one(folder: Path) -> None:
    for name in (INDEX, "packed-" + INDEX):
        (folder / name).write_text('{"weight_map": {}}')


def _long_name(folder: Path) -> None:
    save(folder, {"a": torch.ones(2)}, "a" * 186 + ".safetensors")


def _no_text(folder: Path) -> None:
    header = b'{"\\ud800": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}'
    (folder / "more.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"1")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_odd_name, r"model \(2\)\.safetensors would be left behind"),
        (_subfolder, r"more/deep/model\.safetensors would be left behind"),
        (_hidden, "would be left behind"),
        (_broken_link, "would be left behind"),
        (_missing_shard, r"model-2\.safetensors is missing"),
        (_two_for_one, "would both become"),
        (_long_name, "is no name for it"),
        (_no_text, "not Unicode text"),
    ],
)
def test_no_weights_are_left_out_of_a_packed_folder(
    tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    save(tmp_path / "dense", {"a": torch.ones(2)})
    spoil(tmp_path / "dense")
    with pytest.raises(PackError, match=said):
        pack_folder(tmp_path / "dense", tmp_path / "packed")
    assert [path.name for path in tmp_path.iterdir()] == ["dense"]


def test_what_else_is_left_out_is_named(tmp_path: Path) -> None:
    save(tmp_path / "dense", {"a": torch.ones(2)})
    (tmp_path / "dense" / "more").mkdir()
    for name in (".hidden", "of \x1b", "packed-notes.txt"):
        (tmp_path / "dense" / name).write_text(name)
    left: list[str] = []
    pack_folder(tmp_path / "dense", tmp_path / "packed", on_left=left.append)
    assert left == [".hidden", "more", "of \N{REPLACEMENT CHARACTER}"]
    unpack_folder(tmp_path / "packed", tmp_path / "back")
    assert set(contents(tmp_path / "back")) == {"model.safetensors", "packed-notes.txt"}


@pytest.mark.parametrize("there", [False, True])
def test_unpacking_makes_a_whole_folder_or_none(tmp_path: Path, there: bool) -> None:
    for name in ("a", "b"):
        save(tmp_path / "dense", {"a": torch.ones(2)}, f"{name}.safetensors")
    packed, back = tmp_path / "packed", tmp_path / "back"
    pack_folder(tmp_path / "dense", packed)
    if there:
        back.mkdir()
    last = packed / "packed-b.safetensors"
    whole = last.read_bytes()
    last.write_bytes(whole[:-1] + b"!")
    with pytest.raises(PackError, match="its sha256 is another"):
        unpack_folder(packed, back)
    assert back.exists() == there
    assert not list(back.glob("*"))
    assert not list(tmp_path.glob(".*"))
    last.write_bytes(whole)
    unpack_folder(packed, back)
    assert contents(back) == contents(tmp_path / "dense")


@pytest.mark.parametrize("name", ["a.safetensors", "other.safetensors"])
def test_weights_that_are_not_packed_are_refused_beside_packed_ones(tmp_path: Path, name: str) -> None:
    save(tmp_path / "dense", {"a": torch.ones(2)}, "a.safetensors")
    pack_folder(tmp_path / "dense", tmp_path / "packed")
    save(tmp_path / "packed", {"a": torch.zeros(2)}, name)
    with pytest.raises(PackError, match=f"has {name} beside packed files"):
        unpack_folder(tmp_path / "packed", tmp_path / "back")
    assert not (tmp_path / "back").exists()
