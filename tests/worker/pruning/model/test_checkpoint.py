import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from worker.model_files.choose import INDEX
from worker.pruning import UserError
from worker.pruning.model.checkpoint import STORED, Checkpoint, read_file


def write_index(folder: Path, weight_map: object) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def test_shards_are_read_by_name(tmp_path: Path) -> None:
    one, two = torch.randn(2, 3), torch.randn(4).bfloat16()
    save_file({"one": one}, tmp_path / "a.safetensors")
    save_file({"two": two}, tmp_path / "b.safetensors")
    write_index(tmp_path, {"one": "a.safetensors", "two": "b.safetensors"})
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.tensors["two"].dtype == "BF16"
    assert checkpoint.tensors["two"].bytes == 8
    assert checkpoint.tensors["one"].shape == (2, 3)
    found = checkpoint.read(["two", "one"])
    assert torch.equal(found["one"], one)
    assert torch.equal(found["two"], two)


def test_every_dtype_and_shape_comes_back_as_stored(tmp_path: Path) -> None:
    shapes = [(3, 5), (7,), (), (0, 4)]
    tensors = {
        f"{name}-{len(shape)}-{0 in shape}": torch.randint(0, 2, shape).to(dtype)
        for name, dtype in STORED.items()
        for shape in shapes
    }
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = read_file(tmp_path / "model.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert found[name].reshape(-1).view(torch.uint8).tolist() == tensor.reshape(-1).view(torch.uint8).tolist()
    assert Checkpoint.open(tmp_path).read(["BF16-2-False"])["BF16-2-False"].data_ptr() % 64 == 0


def test_file_cut_off_after_its_header_was_read_is_an_error(tmp_path: Path) -> None:
    save_file({"one": torch.zeros(64)}, tmp_path / "model.safetensors")
    checkpoint = Checkpoint.open(tmp_path)
    with (tmp_path / "model.safetensors").open("r+b") as handle:
        handle.truncate(checkpoint.tensors["one"].start + 8)
    with pytest.raises(OSError, match="ended within one"):
        checkpoint.read(["one"])


@pytest.mark.parametrize(
    "file", ["../a.safetensors", "/etc/a.safetensors", "sub/a.safetensors", "a.bin", "..\\a.safetensors", 3, None]
)
def test_index_must_not_leave_the_folder(tmp_path: Path, file: object) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"one": torch.zeros(1)}, tmp_path / "a.safetensors")
    write_index(folder, {"one": file})
    with pytest.raises(UserError, match="plain"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("weight_map", [{"one": "missing.safetensors"}, [], None])
def test_index_must_be_true(tmp_path: Path, weight_map: object) -> None:
    save_file({"one": torch.zeros(1)}, tmp_path / "a.safetensors")
    write_index(tmp_path, weight_map)
    with pytest.raises(UserError):
        Checkpoint.open(tmp_path)


def test_what_is_not_safetensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither"):
        Checkpoint.open(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(UserError, match="not a safetensors file"):
        Checkpoint.open(tmp_path)
