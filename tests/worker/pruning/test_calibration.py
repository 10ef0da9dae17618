import json
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests.tiny import text
from worker.pruning import EvaluationSpec, Format, Text, UserError
from worker.pruning import calibration as module
from worker.pruning.calibration import Tokenizer, apart, calibration_windows, evaluation_windows, held_out_indices
from worker.pruning.spec import Calibration


def written(folder: Path, content: str, name: str = "x.txt") -> Text:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return Text(path, Format.jsonl if name.endswith("l") else Format.txt, "text")


def test_windows_start_where_the_protocol_says(tiny_llama: Path, tmp_path: Path) -> None:
    content = text(800)
    ids = AutoTokenizer.from_pretrained(tiny_llama)(content)["input_ids"]
    draw = random.Random(7)
    starts = [draw.randint(0, len(ids) - 16 - 1) for _ in range(30)]
    for held_out in (0.0, 0.1):
        calibration = Calibration(written(tmp_path, content), 30, 16, 7, "/x", held_out)
        windows = calibration_windows(Tokenizer(tiny_llama), calibration)
        solved_on = [start for index, start in enumerate(starts) if not held_out or index % 10 != 9]
        assert windows.solved_on.tolist() == [ids[start : start + 16] for start in solved_on]
        assert windows.held_out.shape == (30 - len(solved_on), 16)


def test_held_out_windows_lie_where_nothing_is_solved_on(tiny_llama: Path, tmp_path: Path) -> None:
    """Of a text that 45 windows cover by half: every held-out window is found in a gap between them."""
    content = text(1500)
    ids = AutoTokenizer.from_pretrained(tiny_llama)(content)["input_ids"]
    draw = random.Random(3)
    starts = [draw.randint(0, len(ids) - 24 - 1) for _ in range(50)]
    solved_on = [start for index, start in enumerate(starts) if index % 10 != 9]
    covered = {place for start in solved_on for place in range(start, start + 24)}
    assert any(place in covered for start in starts[9::10] for place in range(start, start + 24))
    calibration = Calibration(written(tmp_path, content), 50, 24, 3, "/x")
    windows = calibration_windows(Tokenizer(tiny_llama), calibration)
    gaps = [
        ids[start : start + 24] for start in range(len(ids) - 24) if covered.isdisjoint(range(start, start + 24))
    ]
    assert len(windows.held_out) == 5
    assert all(window in gaps for window in windows.held_out.tolist())
    assert windows.overlap == 0
    again = calibration_windows(Tokenizer(tiny_llama), calibration)
    assert torch.equal(again.held_out, windows.held_out)


@settings(deadline=None)  # a busy machine is not a fault
@given(st.data())
def test_held_out_windows_keep_apart(data: st.DataObject) -> None:
    """Against every start there is: a window that shares a place is moved, clear of the other held-out ones too if
    such a place is left."""
    length, last = data.draw(st.integers(1, 9)), data.draw(st.integers(0, 90))
    start = st.integers(0, last)
    solved_on, drawn = data.draw(st.lists(start, min_size=1, max_size=8)), data.draw(st.lists(start, max_size=4))

    def clear(start: int, others: list[int]) -> bool:
        return all(abs(start - other) >= length for other in others)

    found, overlap = apart(solved_on, drawn, length, last, data.draw(st.integers(0, 5)))
    possible = [start for start in range(last + 1) if clear(start, solved_on)]
    if not possible:
        shared = [
            place for start in drawn for place in range(start, start + length) if within(place, solved_on, length)
        ]
        assert found == drawn
        assert overlap == pytest.approx(len(shared) / (len(drawn) * length) if drawn else 0)
        return
    assert overlap == 0
    stay = [start for start in drawn if clear(start, solved_on)]
    before = [*solved_on, *stay]
    for was, now in zip(drawn, found, strict=True):
        if was in stay:
            assert now == was
            continue
        assert now in possible
        assert clear(now, before) or not any(clear(place, before) for place in possible)
        before.append(now)


def within(place: int, starts: list[int], length: int) -> bool:
    return any(start <= place < start + length for start in starts)


def test_moved_windows_may_lie_anywhere_between_those_solved_on() -> None:
    """Two gaps, of nine starts and of five: over many seeds each of the fourteen is drawn, about as often."""
    found = [apart([0, 16], [2], 4, 24, seed)[0][0] for seed in range(400)]
    counts = {start: found.count(start) for start in set(found)}
    assert set(counts) == {*range(4, 13), *range(20, 25)}
    assert all(10 <= count <= 60 for count in counts.values())


@pytest.mark.parametrize(
    ("samples", "share", "expected"),
    [
        (1, 0.1, []),
        (2, 0.1, [1]),
        (9, 0.1, [8]),
        (10, 0.1, [9]),
        (35, 0.1, [9, 19, 29]),
        (10, 0.25, [3, 7]),
        (7, 0.4, [2, 4]),
        (20, 0, []),
    ],
)
def test_held_out_windows_are_spread_evenly(samples: int, share: float, expected: list[int]) -> None:
    assert held_out_indices(samples, share) == expected


@settings(deadline=None)  # a busy machine is not a fault
@given(st.integers(2, 400), st.integers(1, 499))
def test_about_the_share_is_held_out_and_never_the_half(samples: int, thousandths: int) -> None:
    count = len(held_out_indices(samples, thousandths / 1000))
    assert count == max(samples * thousandths // 1000, 1)
    assert count <= samples / 2


def test_jsonl_documents_are_joined_by_one_blank(tiny_llama: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"text": part}) for part in ("one two", "three\nfour", "five")]
    tokenizer = Tokenizer(tiny_llama)
    joined = tokenizer.tokens(written(tmp_path, "\n".join(lines) + "\n\n", "x.jsonl"), "/x")
    assert joined.tolist() == tokenizer.tokens(written(tmp_path, "one two three\nfour five"), "/x").tolist()


def test_evaluation_windows_follow_each_other_and_drop_the_tail(tiny_llama: Path, tmp_path: Path) -> None:
    tokenizer, source = Tokenizer(tiny_llama), written(tmp_path, text(100))
    ids = tokenizer.tokens(source, "/x")
    windows = evaluation_windows(tokenizer, source, EvaluationSpec(20, 100), "/x")
    assert windows.flatten().tolist() == ids[: len(ids) // 20 * 20].tolist()
    assert len(evaluation_windows(tokenizer, source, EvaluationSpec(20, 2), "/x")) == 2


def test_too_little_text_is_the_users_error(tiny_llama: Path, tmp_path: Path) -> None:
    tokenizer, source = Tokenizer(tiny_llama), written(tmp_path, "the cat")
    with pytest.raises(UserError) as caught:
        calibration_windows(tokenizer, Calibration(source, 1, 64, 0, "/domains/0/calibration"))
    assert (caught.value.code, caught.value.field) == ("too_few_tokens", "/domains/0/calibration")
    with pytest.raises(UserError, match="one window needs"):
        evaluation_windows(tokenizer, source, EvaluationSpec(64, 1), "/x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "line 1 is not JSON"),
        ('{"text": "a"}\n{"body": "b"}', "line 2 has no text"),
        ("[]", "line 1 has no text"),
    ],
)
def test_bad_documents_are_named_by_line(tiny_llama: Path, tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Tokenizer(tiny_llama).tokens(written(tmp_path, content, "x.jsonl"), "/x")


def test_text_that_is_not_utf8_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError, match="UTF-8"):
        Tokenizer(tiny_llama).tokens(Text(path, Format.txt, "text"), "/x")


def test_long_texts_are_tokenised_in_pieces_cut_at_lines(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, source = Tokenizer(tiny_llama), written(tmp_path, text(600))
    whole = tokenizer.tokens(source, "/x")
    monkeypatch.setattr(module, "PIECE", 500)
    pieces = tokenizer.tokens(source, "/x")
    assert torch.equal(torch.from_numpy(whole), torch.from_numpy(pieces))
