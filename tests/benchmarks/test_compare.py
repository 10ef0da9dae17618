"""The comparison on a tiny model: rows of ours, their cache, what makes them stale.

Slow: a row is only stale or fresh once it was pruned.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy
import pytest

from benchmarks import compare, measure
from benchmarks.child import Finished
from benchmarks.measure import Bench
from benchmarks.protocol import CALIBRATION, TESTS, Protocol
from benchmarks.ratio import compare_times
from benchmarks.results import Results
from benchmarks.rows import DENSE, Row, all_rows, choose
from tests.tiny import make_tiny_llama, text

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("bench")
    for number, file in enumerate([CALIBRATION, *(path for path, _ in TESTS.values())]):
        path = folder / "data" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        words = text(500, seed=number)
        path.write_text(words if path.suffix == ".txt" else json.dumps({"text": words}) + "\n")
    protocol = Protocol(folder / "data", 1, samples=4, sequence_length=32, windows=2, window_length=64)
    (folder / "cache").mkdir()
    return Bench(make_tiny_llama(folder / "model"), "float32", folder / "cache", protocol)


def command(bench: Bench, out: Path, *more: str) -> list[str]:
    protocol = bench.protocol
    given = ["--data", protocol.data, "--model", bench.model, "--cache", bench.cache, "--out", out]
    numbers = {key: value for key, value in vars(protocol).items() if key != "data"}
    for key, value in numbers.items():
        given += [f"--{key.replace('_', '-')}", value]
    return [*map(str, given), *more]


def test_rows_are_measured_once(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.json"
    assert compare.main(command(bench, out, "--rows", "dense,2:4/wanda")) == 0
    first = json.loads(out.read_text())
    row = first["rows"]["2:4/wanda"]
    assert row["sparsity"] == 0.5
    assert row["matrices_off_pattern"] == 0
    assert row["peak_anon_bytes"] > 0
    assert row["seconds"] > 0
    assert row["perplexity"] != first["rows"]["dense"]["perplexity"]

    def refuse(*_: object) -> None:
        raise AssertionError("a cached row was measured again")

    monkeypatch.setattr(Bench, "measure", refuse)
    assert compare.main(command(bench, out, "--rows", "dense,2:4/wanda")) == 0
    assert json.loads(out.read_text()) == first


def test_row_that_fails_is_reported_and_the_others_are_measured(bench: Bench, tmp_path: Path) -> None:
    broken = replace(bench, cache=tmp_path / "cache")
    broken.cache.mkdir()
    rows = [Row("bad", "2:4", {"name": "no such method"}, None, {"pattern": "2:4"}), DENSE]
    found, failed = compare.fill(broken, rows, again=False)
    assert list(found) == ["dense"]
    assert "/method/name" in failed["bad"]


def test_key_tells_apart_what_gives_other_figures(bench: Bench) -> None:
    (row,) = choose("50%/wanda")
    key = bench.key(row)
    assert key == bench.key(row)
    assert key != bench.key(choose("60%/wanda")[0])
    assert key != replace(bench, protocol=replace(bench.protocol, samples=5)).key(row)
    assert key != replace(bench, dtype="bfloat16").key(row)


def test_ours_depends_on_the_engine_and_a_peer_on_its_pins(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, peer = choose("50%/wanda,50%/llmcompressor-wanda")
    before = bench.key(ours), bench.key(peer)
    other = tmp_path / "other.py"
    other.write_text("changed\n")
    monkeypatch.setattr("benchmarks.measure.engine_sources", lambda: [other])
    monkeypatch.setattr("benchmarks.measure.EVALUATOR", (other,))
    monkeypatch.setattr("benchmarks.measure.PINS", other)
    after = bench.key(ours), bench.key(peer)
    assert before[0]["engine"] != after[0]["engine"]
    assert before[1]["software"] != after[1]["software"]
    assert before[1]["evaluator"] != after[1]["evaluator"]


def test_results_are_found_by_equal_keys_only(tmp_path: Path) -> None:
    results = Results(tmp_path)
    results.keep({"row": "50%/wanda", "threads": 2}, {"seconds": 1.5})
    assert results.find({"threads": 2, "row": "50%/wanda"}) == {"seconds": 1.5}
    assert results.find({"row": "50%/wanda", "threads": 1}) is None


def test_peer_is_asked_for_the_same_windows_and_rates(bench: Bench, tmp_path: Path) -> None:
    (row,) = choose("4:8/llmcompressor-sparsegpt")
    asked = bench.asked_of_peer(row, tmp_path)
    assert asked["mask_structure"] == "4:8"
    assert asked["dtype"] == "float32"
    assert numpy.load(tmp_path / "windows.npy").shape == (bench.protocol.samples, bench.protocol.sequence_length)
    (free,) = choose("70%/llmcompressor-sparsegpt")
    assert bench.asked_of_peer(free, tmp_path)["mask_structure"] == "0:0"
    assert bench.asked_of_peer(free, tmp_path)["target"] == 0.7


def test_ratio_takes_turns_and_compares_medians(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def prune(_: Bench, row: Row, workspace: Path) -> Finished:
        order.append(row.name)
        return Finished({"seconds": 4.0 if row.peer else 1.0, "processor_seconds": 2.0}, 2, 1)

    monkeypatch.setattr(Bench, "prune", prune)
    found = compare_times(bench, 2, all_rows())
    there = ["50%/admm:fast", "50%/admm:standard", "50%/llmcompressor-sparsegpt"]
    assert order[:6] == [*there, *reversed(there)]
    assert [each["ours"] for each in found] == [*there[:2], "50%/wanda", "50%/wanda@uniform"]
    assert [(each["ratio"], each["processor_ratio"]) for each in found] == [(0.25, 1.0)] * 4
    assert [each["goal"] for each in found] == [0.5, 1.0, 0.5, 0.5]
    assert set(found[1]["runs"]) == {"50%/admm:standard", "50%/llmcompressor-sparsegpt"}
    order.clear()
    assert [each["ours"] for each in compare_times(bench, 1, choose("*/admm:standard"))] == there[1:2]
    assert order == there[1:]


def test_a_peers_model_gets_the_tokenizer_that_all_are_evaluated_with(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pruned(_command: list[str], request: dict[str, str], _threads: int) -> Finished:
        assert numpy.load(request["windows"]).shape == (4, 32)
        Path(request["output"]).mkdir()
        return Finished({"model": request["output"]}, 2, 1)

    monkeypatch.setattr(measure, "run_child", pruned)
    monkeypatch.setattr(measure, "peers_python", lambda cache: cache)
    (row,) = choose("2:4/llmcompressor-sparsegpt")
    folder = Path(bench.prune(row, tmp_path).answer["model"])
    assert (folder / "tokenizer.json").read_bytes() == (bench.model / "tokenizer.json").read_bytes()
