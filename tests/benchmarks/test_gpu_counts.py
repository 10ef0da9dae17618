"""What a job at the shapes of a real model asks of a GPU.

Slow: bytes over the bus against a block, and memory, are only a model's at a model's shapes.
"""

import pytest
import torch

from benchmarks.gpu_counts import ALLOWED, LOADS, PASSES, Counted, _evenly, count, rows, show

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Counted:
    return count(tmp_path_factory.mktemp("hollow"), "1b", {"name": "admm"}, {"target": 0.5}, samples=2, windows=1)


def test_what_has_no_numbers_is_sent_to_every_expert_alike() -> None:
    choices = torch.zeros((12, 2), dtype=torch.long, device="meta")
    shares = [(index, len(token), len(place)) for index, token, place in _evenly(choices, 5)]
    assert shares == [(0, 5, 5), (1, 5, 5), (2, 5, 5), (3, 5, 5), (4, 4, 4)]
    assert [index for index, *_ in _evenly(choices[:1], 5)] == [0, 1]
    known = torch.tensor([[1, 3], [3, 1]])
    assert [index for index, *_ in _evenly(known, 5)] == [1, 3]


def test_each_pass_sends_a_block_once(counted: Counted) -> None:
    """Beside it go tokens and masks; hidden states stay where there is room for them. Of the survey there are two
    passes, and the models before and after are evaluated."""
    assert LOADS.keys() == PASSES.keys()
    for name in PASSES:
        assert 0.9 < counted.sent(name) < ALLOWED


def test_what_comes_back_is_what_is_written(counted: Counted) -> None:
    """The block, and its state: Grams of four inputs, half of each, in two bytes a number."""
    state = counted.counts.figures["state"]["downloads_bytes"] / counted.blocks / counted.stored
    assert 0.0 < state < 0.8
    matrices = 0.99  # of a block; its norms stay as they were read
    assert matrices < counted.bus("pruning", "downloads") - state < 1.5
    # Of the survey, what blocks read, which is kept, and next to nothing else.
    assert counted.bus("survey", "downloads") * counted.stored < 1.1 * counted.hidden


def test_the_host_casts_nothing(counted: Counted) -> None:
    assert counted.counts.total("host_cast_bytes") == 0


def test_what_was_counted_can_be_read(counted: Counted, capsys: pytest.CaptureFixture[str]) -> None:
    show(counted, "1b")
    told = capsys.readouterr().out
    assert all(f"{name}, a block:" in told for name in PASSES)


def test_a_table_says_what_is_more_than_allowed(counted: Counted) -> None:
    lines = rows(counted, "1b", "admm")
    assert [line.split(" | ")[1] for line in lines] == list(PASSES)
    assert not any("more than" in line for line in lines)
    less = Counted(counted.counts, counted.blocks, counted.stored // 2, counted.hidden)
    assert all("more than 1.5" in line for line in rows(less, "1b", "admm"))
