import json
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests.tiny import text
from worker.pruning import EvaluationSpec, Format, Text, UserError
from worker.pruning import calibration as module
from worker.pruning.calibration import Tokenizer, calibration_windows, evaluation_windows, held_out_indices, split
from worker.pruning.spec import Calibration


def written(folder: Path, content: str, name: str = "x.txt") -> Text:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return Text(path, Format.jsonl if name.endswith("l") else Format.txt, "text")


def test_windows_start_where_the_protocol_says(tiny_llama: Path, tmp_path: Path) -> None:
    content = text(800)
    ids = AutoTokenizer.from_pretrained(tiny_llama)(content)["input_ids"]
    draw = random.Random(7)
    starts = [draw.randint(0, len(ids) - 16 - 1) for _ in range(5)]
    windows = calibration_windows(Tokenizer(tiny_llama), Calibration(written(tmp_path, content), 5, 16, 7, "/x"))
    assert windows.tolist() == [ids[start : start + 16] for start in starts]


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


def test_split_keeps_the_order_drawn() -> None:
    windows = torch.arange(40).reshape(20, 2)
    solved_on, held_out = split(windows, 0.1)
    assert held_out[:, 0].tolist() == [18, 38]
    assert solved_on[:, 0].tolist() == [2 * index for index in range(20) if index % 10 != 9]


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
