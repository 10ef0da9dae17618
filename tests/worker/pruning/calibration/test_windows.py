import json
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from secateur.spec.job import Calibration, Documents
from tests.tiny import make_tokenizer, put_before, text
from worker.pruning import EvaluationSpec, Format, Text, UserError
from worker.pruning.calibration.tokenizer import Tokenizer
from worker.pruning.calibration.windows import apart, calibration_windows, evaluation_windows, held_out_indices


def written(folder: Path, content: str, name: str = "x.txt") -> Text:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return Text(path=path, format=Format.jsonl if name.endswith("l") else Format.txt)


def test_windows_start_where_the_protocol_says(tiny_llama: Path, tmp_path: Path) -> None:
    content = text(800)
    ids = AutoTokenizer.from_pretrained(tiny_llama)(content)["input_ids"]
    draw = random.Random(7)
    starts = [draw.randint(0, len(ids) - 16 - 1) for _ in range(30)]
    for held_out in (0.0, 0.1):
        calibration = Calibration(samples=30, sequence_length=16, seed=7, held_out=held_out)
        windows = calibration_windows(Tokenizer(tiny_llama), written(tmp_path, content), calibration, "/x")
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
    source, calibration = written(tmp_path, content), Calibration(samples=50, sequence_length=24, seed=3)
    windows = calibration_windows(Tokenizer(tiny_llama), source, calibration, "/x")
    gaps = [
        ids[start : start + 24] for start in range(len(ids) - 24) if covered.isdisjoint(range(start, start + 24))
    ]
    assert len(windows.held_out) == 5
    assert all(window in gaps for window in windows.held_out.tolist())
    assert windows.overlap == 0
    again = calibration_windows(Tokenizer(tiny_llama), source, calibration, "/x")
    assert torch.equal(again.held_out, windows.held_out)


@given(st.data())
def test_held_out_windows_keep_apart(data: st.DataObject) -> None:
    """Against every start there is: a window that shares a place is moved, clear of the other held-out ones too if
    such a place is left."""
    length, edges = data.draw(st.integers(1, 9)), data.draw(st.sets(st.integers(0, 90), min_size=2, max_size=6))
    ends = sorted(edges)
    places = [range(one, other) for one, other in zip(ends[::2], ends[1::2], strict=False)]
    starts = [start for place in places for start in place]
    start = st.sampled_from(starts)
    solved_on, drawn = data.draw(st.lists(start, min_size=1, max_size=8)), data.draw(st.lists(start, max_size=4))

    def clear(start: int, others: list[int]) -> bool:
        return all(abs(start - other) >= length for other in others)

    found, overlap = apart(solved_on, drawn, length, places, data.draw(st.integers(0, 5)))
    possible = [start for start in starts if clear(start, solved_on)]
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


def test_held_out_windows_keep_apart_across_places() -> None:
    """A start of one place is too near to that of a window in the next one."""
    for seed in range(20):
        found, _ = apart([0], [0, 0], 3, [range(11), range(12, 13)], seed)
        assert abs(found[0] - found[1]) >= 3


def within(place: int, starts: list[int], length: int) -> bool:
    return any(start <= place < start + length for start in starts)


def test_moved_windows_may_lie_anywhere_between_those_solved_on() -> None:
    """Two gaps, of nine starts and of five: over many seeds each of the fourteen is drawn, about as often."""
    found = [apart([0, 16], [2], 4, [range(25)], seed)[0][0] for seed in range(400)]
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


@given(st.integers(2, 400), st.integers(1, 499))
def test_about_the_share_is_held_out_and_never_the_half(samples: int, thousandths: int) -> None:
    count = len(held_out_indices(samples, thousandths / 1000))
    assert count == max(samples * thousandths // 1000, 1)
    assert count <= samples / 2


def test_evaluation_windows_follow_each_other_and_drop_the_tail(tiny_llama: Path, tmp_path: Path) -> None:
    tokenizer, source = Tokenizer(tiny_llama), written(tmp_path, text(100))
    ids = tokenizer.tokens(source, "/x")
    windows = evaluation_windows(tokenizer, source, EvaluationSpec(sequence_length=20, max_windows=100), "/x")
    assert windows.flatten().tolist() == ids[: len(ids) // 20 * 20].tolist()
    assert len(evaluation_windows(tokenizer, source, EvaluationSpec(sequence_length=20, max_windows=2), "/x")) == 2


def test_too_little_text_is_the_users_error(tiny_llama: Path, tmp_path: Path) -> None:
    tokenizer, source = Tokenizer(tiny_llama), written(tmp_path, "the cat")
    with pytest.raises(UserError) as caught:
        calibration_windows(
            tokenizer, source, Calibration(samples=1, sequence_length=64), "/domains/0/calibration"
        )
    assert (caught.value.code, caught.value.field) == ("too_few_tokens", "/domains/0/calibration")
    with pytest.raises(UserError, match="one window needs"):
        evaluation_windows(tokenizer, source, EvaluationSpec(sequence_length=64, max_windows=1), "/x")


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Text:
    """Documents of fewer than 40 words."""
    draw = random.Random(1)
    contents = [text(draw.randrange(40), seed) for seed in range(12)]
    lines = "".join(json.dumps({"text": content}) + "\n" for content in contents)
    return written(tmp_path_factory.mktemp("documents"), lines, "x.jsonl")


@pytest.mark.parametrize("before", [(), ("<|end|>", "Ġthe")])
def test_windows_of_separate_documents_lie_in_one_each(
    tiny_llama: Path, documents: Text, tmp_path: Path, before: tuple[str, ...]
) -> None:
    """Each place in a document that is long enough is drawn, and nothing else."""
    folder = put_before(make_tokenizer(tmp_path), *before, behind="<|end|>") if before else tiny_llama
    tokenizer = Tokenizer(folder)
    length = 24 - len(before)
    parts = [ids.tolist() for ids in tokenizer.documents(documents, "/x")]
    possible = {
        (*tokenizer.prefix, *ids[start : start + length]) for ids in parts for start in range(len(ids) - length)
    }
    assert any(len(ids) <= length for ids in parts)
    calibration = Calibration(samples=9000, sequence_length=24, documents=Documents.separate)
    windows = calibration_windows(tokenizer, documents, calibration, "/x")
    assert {tuple(window) for window in torch.cat([windows.solved_on, windows.held_out]).tolist()} == possible
    few = calibration_windows(tokenizer, documents, calibration.model_copy(update={"samples": 30}), "/x")
    assert few.overlap == 0
    assert few.every.shape == (30, length)
    assert few.covered <= 27 * length


def test_a_txt_is_one_document(tiny_llama: Path, tmp_path: Path) -> None:
    tokenizer, source = Tokenizer(tiny_llama), written(tmp_path, text(800))
    one, other = (
        calibration_windows(
            tokenizer, source, Calibration(samples=30, sequence_length=16, seed=7, documents=how), "/x"
        )
        for how in Documents
    )
    assert torch.equal(one.solved_on, other.solved_on)
    assert torch.equal(one.held_out, other.held_out)
    specs = [EvaluationSpec(sequence_length=20, max_windows=9, documents=how) for how in Documents]
    found = [evaluation_windows(tokenizer, source, spec, "/x") for spec in specs]
    assert torch.equal(*found)


def test_without_a_document_of_a_window_s_length_the_longest_is_said(tiny_llama: Path, documents: Text) -> None:
    tokenizer = Tokenizer(tiny_llama)
    longest = max(len(ids) for ids in tokenizer.documents(documents, "/x"))
    separate, joined = (
        Calibration(samples=4, sequence_length=longest, documents=how)
        for how in (Documents.separate, Documents.joined)
    )
    with pytest.raises(UserError, match=f"the longest has {longest}: .* or join the documents") as caught:
        calibration_windows(tokenizer, documents, separate, "/x")
    assert caught.value.code == "too_few_tokens"
    spec = EvaluationSpec(sequence_length=longest + 1, documents=Documents.separate)
    with pytest.raises(UserError, match=f"the longest has {longest}:"):
        evaluation_windows(tokenizer, documents, spec, "/x")
    assert len(calibration_windows(tokenizer, documents, joined, "/x").every) == 4
