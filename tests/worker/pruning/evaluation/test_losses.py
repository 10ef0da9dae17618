"""The output head: piece by piece, and in the dtype of the products."""

import gc
from pathlib import Path

import pytest
import torch

from tests.worker.pruning.model.test_families import opened
from worker.pruning.evaluation import losses
from worker.pruning.evaluation.losses import FEWEST, LOGITS, native_dtype, pieces, precision
from worker.pruning.model.tracing import Call

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("windows", "length", "vocabulary"), [(1, 1024, 49_152), (8, 512, 150_000), (512, 8, 320)]
)
@pytest.mark.parametrize("copies", [1, 4])
def test_pieces_cover_every_predicting_position_once(
    windows: int, length: int, vocabulary: int, copies: int
) -> None:
    ids = torch.zeros(windows, length)
    found = pieces(ids, vocabulary, copies)
    covered = [position for piece in found for position in range(length)[piece]]
    assert covered == list(range(length - 1))
    largest = windows * max(piece.stop - piece.start for piece in found)
    assert largest <= max(FEWEST, LOGITS[ids.device.type] // (copies * vocabulary), windows)


@pytest.mark.parametrize(
    ("vendor", "amx", "vectors", "usable", "expected"),
    [
        ("GenuineIntel", True, True, True, "bfloat16"),
        ("GenuineIntel", False, True, True, "float32"),
        ("AuthenticAMD", False, True, True, "bfloat16"),
        ("", False, True, True, "bfloat16"),
        ("AuthenticAMD", False, False, True, "float32"),
        ("AuthenticAMD", False, True, False, "float32"),
        ("GenuineIntel", True, True, False, "float32"),
    ],
)
def test_passes_are_in_bfloat16_where_that_is_faster(
    monkeypatch: pytest.MonkeyPatch, vendor: str, amx: bool, vectors: bool, usable: bool, expected: str
) -> None:
    monkeypatch.setattr(losses, "processor_vendor", lambda: vendor)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: vectors)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: usable)
    assert native_dtype(CPU) == expected


@torch.no_grad()
def test_under_autocast_the_heads_weight_is_converted_once_and_put_back(tiny_llama: Path) -> None:
    runner = opened(tiny_llama)[2]
    model = runner.graph.model
    weight = model.get_output_embeddings().weight
    ids, hidden = torch.randint(0, 320, (2, 12)), torch.randn(2, 12, model.config.hidden_size)
    with runner.head() as head:
        full = head(ids, hidden)
    with precision(CPU, "bfloat16"):
        with runner.head() as head:
            assert model.get_output_embeddings().weight.dtype is torch.bfloat16
            found = head(ids, hidden)
        assert torch.equal(found, torch.nn.functional.linear(model.model.norm(hidden), weight))
    assert found.dtype is torch.bfloat16
    torch.testing.assert_close(found.float(), full, rtol=0.05, atol=0.05)
    assert model.get_output_embeddings().weight is weight
    assert model.get_input_embeddings().weight is weight


@torch.no_grad()
def test_a_head_holds_nothing_of_the_pieces_that_it_has_passed(tiny_llama: Path) -> None:
    runner = opened(tiny_llama)[2]
    ids, hidden = torch.randint(0, 320, (2, 12)), torch.randn(2, 12, runner.graph.model.config.hidden_size)
    before = calls_alive()
    with runner.head() as head:
        for _ in range(3):
            head(ids, hidden)
        assert calls_alive() == before


def calls_alive() -> int:
    gc.collect()
    return sum(type(each) is Call for each in gc.get_objects())


def test_a_head_that_fails_is_put_back(tiny_llama: Path) -> None:
    runner = opened(tiny_llama)[2]
    model = runner.graph.model
    weight = model.get_output_embeddings().weight
    with pytest.raises(InterruptedError), precision(CPU, "bfloat16"), runner.head():
        raise InterruptedError
    assert model.get_output_embeddings().weight is weight
    assert all("forward" not in vars(block.module) for block in runner.graph.blocks)
