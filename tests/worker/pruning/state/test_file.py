from pathlib import Path

import pytest
import torch

from secateur.spec.output import Precision
from worker.pruning.state.atomic import write_tensors
from worker.pruning.state.file import (
    pack,
    pack_cross,
    read_document,
    read_state,
    state_content,
    unpack,
    unpack_cross,
)
from worker.pruning.state.moments import Accumulator, Measured, accumulate

CPU = torch.device("cpu")


def measured(inputs: torch.Tensor) -> Measured:
    accumulator = Accumulator(inputs.shape[1], CPU)
    accumulator.add(inputs)
    return accumulator.measured()


@pytest.mark.parametrize("width", [33, 256, 600])
def test_packed_gram_comes_back_within_half_precision_and_its_diagonal_exactly(width: int) -> None:
    inputs = torch.randn(900, width) * torch.logspace(-4, 4, width)
    inputs[:, 5] = 0
    gram = measured(inputs).gram
    packed = pack(gram, gram.diagonal())
    assert packed.dtype == torch.float16
    assert packed.numel() == width * (width + 1) // 2
    back = unpack(packed, gram.diagonal())
    root = gram.diagonal().sqrt().clamp_min(1e-30)
    assert torch.equal(back.diagonal(), gram.diagonal())
    assert torch.equal(back, back.T)
    assert float(((back - gram) / root / root[:, None]).abs().max()) < 1e-3


@pytest.mark.parametrize("width", [33, 300])
def test_a_packed_cross_comes_back_within_half_precision(width: int) -> None:
    inputs = torch.randn(900, width) * torch.logspace(-4, 4, width)
    inputs[:, 5] = 0
    gap = torch.randn(900, width) * torch.logspace(3, -5, width)
    gap[:, 7] = 0
    cross, diagonal = gap.T @ inputs / 900, measured(inputs).gram.diagonal()
    stored = pack_cross(cross, diagonal)
    assert stored["cross"].dtype == torch.float16
    back = unpack_cross(stored["cross"], stored["cross_rows"], diagonal)
    scale = diagonal.sqrt()
    largest = (cross / scale.clamp_min(1e-30)).abs().amax(dim=1, keepdim=True).clamp_min(1e-30)
    assert float(((back - cross) / scale.clamp_min(1e-30) / largest).abs().max()) < 1e-3
    assert not back[:, 5].any()
    assert not back[7].any()
    exact = pack_cross(cross, diagonal, Precision.float32)
    assert torch.equal(unpack_cross(exact["cross"], exact["cross_rows"], diagonal), cross)


def test_state_file_round_trip(tmp_path: Path) -> None:
    sums = accumulate(None, measured(torch.randn(40, 6)), keep_gram=True)
    plain = accumulate(None, measured(torch.randn(40, 3)), keep_gram=False)
    path = tmp_path / "state" / "block.safetensors"
    write_tensors(path, *state_content({"a.weight": sums, "b.weight": plain}, {"history": [[{"zeros": 3}]]}))
    back = read_state(path, CPU)
    assert torch.equal(back["a.weight"].second, sums.second)
    assert torch.equal(back["b.weight"].mean, plain.mean)
    assert back["b.weight"].gram is None
    assert back["a.weight"].tokens == 40
    assert read_document(path)["history"] == [[{"zeros": 3}]]
    again = tmp_path / "again.safetensors"
    write_tensors(again, *state_content({"a.weight": sums, "b.weight": plain}, {"history": [[{"zeros": 3}]]}))
    assert again.read_bytes() == path.read_bytes()
