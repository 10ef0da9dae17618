"""The joint ceiling's text: as much of every domain, and windows that stay inside one."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from benchmarks.continual_joint import balanced_seed, write_mix
from benchmarks.continual_rows import CALIBRATIONS
from secateur.spec.job import Calibration
from tests.tiny import make_tokenizer, put_before, text
from worker.pruning import Format, Text
from worker.pruning.calibration.tokenizer import Tokenizer
from worker.pruning.calibration.windows import calibration_windows

SAMPLES, LENGTH = 3, 16


@pytest.fixture(scope="module", params=[(), ("<|end|>",)], ids=["bare", "prefixed"])
def model(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    return put_before(make_tokenizer(tmp_path_factory.mktemp("model")), *request.param)


@pytest.fixture(scope="module")
def mix(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("data")
    for number, (file, kind) in enumerate(CALIBRATIONS.values()):
        path = data / file
        path.parent.mkdir()
        words = text(400 + 200 * number, seed=number)
        documents = [words[:700], words[700:]]
        path.write_text(words if kind == "txt" else "".join(json.dumps({"text": d}) + "\n" for d in documents))
    write_mix(model, data, data / "mix.jsonl")
    return data / "mix.jsonl"


def test_every_domain_has_as_many_tokens_as_the_shortest(model: Path, mix: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    parts = [json.loads(line)["text"] for line in mix.read_text().splitlines()]
    counts = [len(tokenizer(part)["input_ids"]) for part in parts]
    assert max(counts) - min(counts) <= 2
    assert parts[0] == text(400, seed=0)
    assert text(800, seed=2)[:700] == parts[2][:700]


def test_the_engine_draws_equally_many_windows_of_every_domain_and_none_across(model: Path, mix: Path) -> None:
    seed = balanced_seed(model, mix, SAMPLES, LENGTH, first=5)
    assert seed >= 5
    mixed = Text(path=mix, format=Format.jsonl)
    calibration = Calibration(samples=SAMPLES * 3, sequence_length=LENGTH, seed=seed, held_out=0.0)
    windows = calibration_windows(Tokenizer(model), mixed, calibration, "/calibration").every
    tokenizer = AutoTokenizer.from_pretrained(model)
    parts = [json.loads(line)["text"] for line in mix.read_text().splitlines()]
    owners = [[n for n, part in enumerate(parts) if tokenizer.decode(w) in part] for w in windows]
    assert all(len(owner) == 1 for owner in owners)
    assert [owners.count([n]) for n in range(3)] == [SAMPLES] * 3


def test_texts_too_short_for_the_windows_are_said(model: Path, mix: Path) -> None:
    with pytest.raises(ValueError, match="too few for windows of 5000"):
        balanced_seed(model, mix, SAMPLES, 5000, first=0)
