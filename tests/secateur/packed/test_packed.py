"""The packed form: the bytes come back, the sizes are what the form says, and no file that lies is believed."""

import json
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import load_file

from secateur.packed import Base, PackError, pack_file, pack_folder, unpack_file, unpack_folder
from secateur.packed.format import KEY, Form, read_packed
from secateur.packed.loading import from_pretrained, load_state_dict
from secateur.safetensors_header import read_header
from tests.command_line import call
from tests.secateur.packed.tensors import Tensors, contents, every_kind, half, save
from tests.tiny import make_tiny_llama


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    return pack_file(save(tmp_path, every_kind()), tmp_path)


def test_every_byte_comes_back(packed: Path, tmp_path: Path) -> None:
    (target := tmp_path / "back").mkdir()
    back = unpack_file(packed, target)
    assert back.read_bytes() == (tmp_path / "model.safetensors").read_bytes()
    forms = {tensor.name: tensor.form for tensor in read_packed(packed).tensors}
    assert {name for name, form in forms.items() if form is Form.plain} == {"dense", "empty", "scalar"}
    assert {form for form in forms.values() if form is not Form.plain} == {Form.packed}


def test_what_another_reader_finds(packed: Path) -> None:
    """The document's words, followed by hand: the first number is the highest bit, values in their order."""
    stored, dense = load_file(packed), every_kind()["bf16"].reshape(-1)
    bits = numpy.unpackbits(stored["bf16.bitmask"].numpy())[: dense.numel()].astype(bool)
    assert bits.tolist() == (dense != 0).tolist()
    assert torch.equal(stored["bf16.values"], dense[torch.from_numpy(bits)])


def test_half_of_a_matrix_in_bfloat16_takes_nine_sixteenths(tmp_path: Path) -> None:
    source = save(tmp_path, {f"w{i}": half((512, 512), torch.bfloat16, i) for i in range(4)})
    entries = read_header(pack_file(source, tmp_path)).tensors
    dense = 4 * 512 * 512 * 2
    assert sum(entry.bytes for entry in entries.values()) == dense * 9 // 16
    assert (tmp_path / "packed-model.safetensors").stat().st_size < 0.6 * source.stat().st_size


def test_the_same_file_gives_the_same_bytes(packed: Path, tmp_path: Path) -> None:
    before = packed.read_bytes()
    assert pack_file(tmp_path / "model.safetensors", tmp_path).read_bytes() == before


def test_masks_are_enough_for_what_the_base_has(tmp_path: Path) -> None:
    """What is neither the base's nor the base's with zeros is packed, in the same file."""
    torch.manual_seed(0)
    dense = {name: torch.randn(64, 64).to(torch.bfloat16) for name in ("masked", "solved", "left")}
    kept = torch.rand(64, 64) < 0.5
    pruned = {
        "masked": torch.where(kept, dense["masked"], 0),
        "solved": torch.where(kept, dense["solved"] * 2, 0),
        "left": dense["left"],
    }
    save(tmp_path / "dense", dense, "other-name.safetensors")
    source = save(tmp_path / "pruned", pruned)
    pack_folder(tmp_path / "pruned", tmp_path / "masks", Base.open(tmp_path / "dense"))
    found = read_packed(tmp_path / "masks/packed-model.safetensors")
    assert {each.name: each.form for each in found.tensors} == {
        "masked": "masked",
        "solved": "packed",
        "left": "base",
    }
    assert found.base.startswith("weights:")
    with pytest.raises(PackError, match="name the folder of the dense model"):
        unpack_folder(tmp_path / "masks", tmp_path / "none")
    with pytest.raises(PackError, match="is not the one that the masks are of"):
        unpack_folder(tmp_path / "masks", tmp_path / "wrong", Base.open(save_other(tmp_path, dense)))
    assert not (tmp_path / "wrong").exists()
    with pytest.raises(PackError, match="has no left of this shape"):
        unpack_folder(tmp_path / "masks", tmp_path / "less", Base.open(save_less(tmp_path, dense)))
    unpack_folder(tmp_path / "masks", tmp_path / "back", Base.open(tmp_path / "dense"))
    assert (tmp_path / "back/model.safetensors").read_bytes() == source.read_bytes()


def save_other(folder: Path, dense: Tensors) -> Path:
    return save(folder / "other", {name: tensor + 1 for name, tensor in dense.items()}).parent


def save_less(folder: Path, dense: Tensors) -> Path:
    return save(folder / "few", {name: tensor for name, tensor in dense.items() if name != "left"}).parent


def test_names_that_clash_are_left_as_they_are(tmp_path: Path) -> None:
    weight = half((64, 64), torch.bfloat16)
    source = save(tmp_path, {"w": weight, "w.bitmask": torch.ones(3), "v": weight.clone()})
    packed = pack_file(source, tmp_path)
    assert {each.name: each.form for each in read_packed(packed).tensors}["w"] is Form.plain
    (tmp_path / "back").mkdir()
    assert unpack_file(packed, tmp_path / "back").read_bytes() == source.read_bytes()


def test_a_file_with_any_byte_changed_or_missing_is_refused_or_means_the_same(tmp_path: Path) -> None:
    source = save(tmp_path, {"w": half((9, 9), torch.bfloat16), "b": torch.ones(3)})
    packed = pack_file(source, tmp_path)
    good, dense = packed.read_bytes(), source.read_bytes()
    (target := tmp_path / "back").mkdir()
    refused = 0
    changed = [
        good[:at] + bytes([good[at] ^ flip]) + good[at + 1 :] for at in range(len(good)) for flip in (1, 255)
    ]
    for data in (*changed, *(good[:length] for length in range(0, len(good), 7)), good + b"\0"):
        packed.write_bytes(data)
        try:
            back = unpack_file(packed, target)
        except PackError:
            refused += 1
            assert not list(target.iterdir())
        else:
            assert back.read_bytes() == dense
            back.unlink()
    assert refused > len(good)


def rewritten(packed: Path, change: Callable[[dict[str, Any], bytearray], None]) -> None:
    """The file with another header; its data begins where it did."""
    data = packed.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8:end]), bytearray(data[end:])
    change(header, rest)
    text = json.dumps(header).encode()
    packed.write_bytes(len(text).to_bytes(8, "little") + text + rest)


def _name(header: dict[str, Any], data: bytearray) -> None:
    header["__metadata__"]["file"] = "../model.safetensors"


def _version(header: dict[str, Any], data: bytearray) -> None:
    header["__metadata__"][KEY] = "2"


def _overlap(header: dict[str, Any], data: bytearray) -> None:
    start, end = header["bf16.values"]["data_offsets"]
    header["bf16.values"]["data_offsets"] = [start - 2, end - 2]


def _fewer(header: dict[str, Any], data: bytearray) -> None:
    """One value less, and all that follows moved up."""
    start, end = header["bf16.values"]["data_offsets"]
    header["bf16.values"] |= {"shape": [header["bf16.values"]["shape"][0] - 1], "data_offsets": [start, end - 2]}
    for name, entry in header.items():
        if name != "__metadata__" and entry["data_offsets"][0] >= end:
            entry["data_offsets"] = [place - 2 for place in entry["data_offsets"]]
    del data[end - 2 : end]


def _more_kept(header: dict[str, Any], data: bytearray) -> None:
    start, end = header["bf16.bitmask"]["data_offsets"]
    data[start:end] = bytes([255]) * (end - start)


def _behind(header: dict[str, Any], data: bytearray) -> None:
    data[header["bf16.bitmask"]["data_offsets"][1] - 1] |= 1


def _no_bitmask(header: dict[str, Any], data: bytearray) -> None:
    header["bf16.other"] = header.pop("bf16.bitmask")


def _shape(header: dict[str, Any], data: bytearray) -> None:
    metadata = header["__metadata__"]
    metadata["header"] = metadata["header"].replace("[37,53]", "[53,37,2]").replace("[37, 53]", "[53,37,2]")


def _forms(header: dict[str, Any], data: bytearray) -> None:
    header["__metadata__"]["tensors"] = "{" * 10**5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_name, "of another file"),
        (_version, "not a packed file of version 1"),
        (_overlap, "overlaps another tensor|does not match its bytes"),
        (_fewer, "not as many values as its bitmask keeps"),
        (_more_kept, "not as many values as its bitmask keeps|goes on behind"),
        (_behind, "goes on behind its tensor"),
        (_no_bitmask, "bf16.bitmask is missing"),
        (_shape, "does not match its bytes"),
        (_forms, "not strict JSON"),
    ],
)
def test_a_file_that_lies_is_refused_with_a_reason(
    packed: Path, tmp_path: Path, change: Callable[[dict[str, Any], bytearray], None], said: str
) -> None:
    rewritten(packed, change)
    (tmp_path / "back").mkdir()
    with pytest.raises(PackError, match=said):
        unpack_file(packed, tmp_path / "back")
    assert not list((tmp_path / "back").iterdir())


def test_both_ways_stop_within_a_file_and_leave_nothing(packed: Path, tmp_path: Path) -> None:
    dense = unpack_file(packed, tmp_path)
    (tmp_path / "stopped").mkdir()
    for turn in (pack_file, unpack_file):
        looks = iter([None, None])  # and the third ends it
        with pytest.raises(StopIteration):
            turn(
                dense if turn is pack_file else packed, tmp_path / "stopped", None, lambda looks=looks: next(looks)
            )
        assert not list((tmp_path / "stopped").iterdir())


def test_the_command_line_packs_and_unpacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: object) -> tuple[int, str]:
        code, out, err = call(tuple(map(str, words)), monkeypatch, capsys)
        return code, out + err

    dense = make_tiny_llama(tmp_path / "dense", dtype=torch.bfloat16, tied=False)
    back, packed = tmp_path / "back", tmp_path / "packed"
    (dense / ".hidden").write_text("")
    code, said = run("pack", dense, packed)
    assert (code, "weights of" in said, "left out: .hidden" in said) == (0, True, True)
    (dense / ".hidden").unlink()
    code, out, err = call(("pack", str(dense), str(tmp_path / "as json"), "--json"), monkeypatch, capsys)
    assert (code, json.loads(out)["left_out"], err) == (0, [], "")
    code, said = run("unpack", packed, back)
    assert (code, "all as they were packed" in said) == (0, True)
    assert contents(back) == contents(dense)
    for words, reason in (
        (("pack", dense, back), "name a folder that is new or empty"),
        (("pack", tmp_path, tmp_path / "new"), "no safetensors files"),
        (("pack", packed, tmp_path / "new"), "is packed already"),
        (("pack", dense, "/proc/x"), "/proc/x cannot be made"),
        (("unpack", dense, tmp_path / "new"), "no packed files"),
        (("unpack", tmp_path / "nowhere", tmp_path / "new"), "is no folder"),
    ):
        code, said = run(*words)
        assert (code, reason in said) == (1, True), said


def test_transformers_gets_the_same_model(tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    dense = make_tiny_llama(tmp_path / "dense", dtype=torch.bfloat16)
    weights = load_file(dense / "model.safetensors")
    (pruned := tmp_path / "pruned").mkdir()
    for path in dense.iterdir():
        (pruned / path.name).write_bytes(path.read_bytes())
    kept = {name: torch.where(torch.rand(tensor.shape) < 0.5, tensor, 0) for name, tensor in weights.items()}
    save(pruned, kept)
    pack_folder(pruned, tmp_path / "packed")
    pack_folder(pruned, tmp_path / "masks", Base.open(dense))
    assert {name: tensor.tolist() for name, tensor in load_state_dict(tmp_path / "packed").items()} == {
        name: tensor.tolist() for name, tensor in kept.items()
    }
    expected = LlamaForCausalLM.from_pretrained(pruned)
    ids = torch.arange(12)[None]
    for model in (from_pretrained(tmp_path / "packed"), from_pretrained(tmp_path / "masks", base=dense)):
        assert model.dtype is torch.bfloat16
        assert torch.equal(model(ids).logits, expected(ids).logits)
        assert model.generation_config.to_dict() == expected.generation_config.to_dict()


def test_the_documented_lines_load_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python of docs/packed.md, in a folder with what its commands have made."""
    page = (Path(__file__).parents[3] / "docs" / "packed.md").read_text()
    monkeypatch.chdir(tmp_path)
    dense = make_tiny_llama(Path("dense"), dtype=torch.bfloat16, tied=False)
    pack_folder(dense, Path("small"))
    pack_folder(dense, Path("masks"), Base.open(dense))
    found: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(block, found)  # noqa: S102 - it is ours
    weights = load_file(dense / "model.safetensors")
    assert found["weights"].keys() == weights.keys()
    assert all(torch.equal(found["weights"][name], weight) for name, weight in weights.items())
    assert torch.equal(found["model"].lm_head.weight, weights["lm_head.weight"])


def test_memory_is_bounded_by_a_piece(tmp_path: Path) -> None:
    source = save(tmp_path, {"w": half((16, 2**20), torch.bfloat16)})  # 32 MiB, in sixteen pieces
    (tmp_path / "back").mkdir()
    for step in (
        lambda: pack_file(source, tmp_path),
        lambda: unpack_file(tmp_path / "packed-model.safetensors", tmp_path / "back"),
    ):
        tracemalloc.start()
        step()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 12 * 2**20
