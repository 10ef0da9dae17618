"""What a job says unasked, in its notes and in its summary."""

from pathlib import Path
from typing import Any

import pytest

from secateur.spec.records.pipe import Summary
from tests.tiny import text
from tests.worker.pruning.conftest import Recorder, Request, domain, prune
from tests.worker.pruning.lineages import chain, continuing, run_job, with_own_texts
from worker.pruning.report.warnings import FORGETTING, after_pruning

Warnings = dict[str, list[dict[str, Any]]]


def said(recorder: Recorder, summary: Summary) -> Warnings:
    """By code, what the summary has; the notes have the same."""
    notes = [(message, data) for level, message, data in recorder.notes if level == "warning" and "code" in data]
    listed = [(each.message, {"code": each.code, **each.data}) for each in summary.warnings]
    assert sorted(map(repr, notes)) == sorted(map(repr, listed))
    found: Warnings = {}
    for each in summary.warnings:
        found.setdefault(each.code, []).append(each.data)
    return found


def warnings(request: dict[str, Any]) -> Warnings:
    recorder = Recorder()
    return said(recorder, prune(request, recorder).summary)


def fresh(texts: Path, tmp_path: Path, name: str) -> dict[str, Any]:
    """A domain whose calibration text is in no test text."""
    (tmp_path / f"{name}.txt").write_text(text(1500, seed=len(name) + 100))
    found = domain(texts, "a")
    found["dataset"] = str(tmp_path / f"{name}.txt")
    return {**found, "name": name}


def test_a_clean_job_says_nothing(request_for: Request, texts: Path, tmp_path: Path) -> None:
    assert warnings(request_for(domains=[fresh(texts, tmp_path, "one")], method={"name": "admm"})) == {}


def test_fewer_tokens_than_inputs(request_for: Request, texts: Path, tmp_path: Path) -> None:
    """Of 4 windows one is held out, so 3 · 32 tokens are solved on; the widest matrix has 128 inputs."""
    one = fresh(texts, tmp_path, "one")
    one["calibration"]["samples"] = 4
    found = warnings(request_for(domains=[one, fresh(texts, tmp_path, "other")]))
    widest = "model.layers.0.mlp.down_proj.weight"
    figures = {"domain": "one", "tokens": 96, "inputs": 128, "matrix": widest}
    assert found == {"too_few_tokens": [figures]}
    magnitude = {"name": "magnitude"}
    assert warnings(request_for(domains=[one], method=magnitude, workspace="other")) == {}
    solved = warnings(request_for(domains=[one], method={**magnitude, "weight_update": "admm"}, workspace="third"))
    assert solved == {"too_few_tokens": [figures]}


def test_held_out_windows_that_find_no_place_of_their_own(
    request_for: Request, texts: Path, tmp_path: Path
) -> None:
    """A text of hardly three windows: whatever is held out is solved on too."""
    one = fresh(texts, tmp_path, "one")
    path = Path(one["dataset"])
    path.write_text(" ".join(path.read_text().split()[:44]))
    one["calibration"]["samples"] = 20
    found = warnings(request_for(domains=[one, fresh(texts, tmp_path, "other")]))
    assert [each["domain"] for each in found.pop("held_out_overlaps")] == ["one"]
    (few,) = found.pop("too_few_tokens")
    assert found == {}
    assert (few["domain"], few["inputs"]) == ("one", 128)
    assert 32 < few["tokens"] < 128, "18 windows lie over one another in a text that is shorter than four"
    one["calibration"]["held_out"] = 0
    (few,) = warnings(request_for(domains=[one], workspace="none"))["too_few_tokens"]
    assert 32 < few["tokens"] < 128


def test_held_out_windows_that_share_the_little_room_there_is(
    request_for: Request, texts: Path, tmp_path: Path
) -> None:
    one = fresh(texts, tmp_path, "one")
    path = Path(one["dataset"])
    path.write_text(" ".join(path.read_text().split()[:350]))
    one["calibration"] |= {"samples": 60, "held_out": 0.4}
    (found,) = warnings(request_for(domains=[one]))["held_out_alike"]
    assert found["domain"] == "one"
    assert 32 <= found["tokens"] < found["of"] / 2 == 24 * 32 / 2


def test_calibration_text_that_is_tested_on(request_for: Request, texts: Path, tmp_path: Path) -> None:
    """Domain c's own text is the test text of both; the first four windows of it are looked at."""
    first = {**fresh(texts, tmp_path, "first"), "evaluation": str(texts / "b.txt")}
    second = domain(texts, "c")
    third = {**domain(texts, "b", evaluation="c"), "name": "third"}
    for each in (second, third):
        each["calibration"]["samples"] = 300  # so that some begin within those windows
    found = warnings(
        request_for(domains=[first, second, third], evaluation={"sequence_length": 64, "max_windows": 8})
    )
    pairs = {(each["calibration"], each["evaluation"]): each["share"] for each in found.pop("texts_overlap")}
    assert set(pairs) == {("third", "first"), ("c", "c"), ("c", "third")}
    assert all(0.01 < share < 0.5 for share in pairs.values())
    assert set(found) == {"held_out_alike"}, "so many windows leave little room"


def test_a_short_test_text_inside_the_calibration_text(request_for: Request, texts: Path, tmp_path: Path) -> None:
    """Less than a hundredth of what is calibrated on, but all of what is evaluated."""
    (tmp_path / "long.txt").write_text(text(20_000, seed=7))
    (tmp_path / "short.txt").write_text(" ".join(text(20_000, seed=7).split()[9_000:9_060]))
    one = fresh(texts, tmp_path, "one")
    one["calibration"] |= {"samples": 200, "sequence_length": 256}
    one |= {"dataset": str(tmp_path / "long.txt"), "evaluation": str(tmp_path / "short.txt")}
    (found,) = warnings(request_for(domains=[one]))["texts_overlap"]
    assert found["share"] < 0.01 < 0.5 < found["evaluation_share"]


def test_a_continued_job_looks_at_earlier_test_texts(request_for: Request, texts: Path) -> None:
    (parent,) = chain(request_for, "a")
    second = {**domain(texts, "a", evaluation=None), "name": "second"}
    second["calibration"]["samples"] = 200
    child = run_job(continuing(parent, request_for(domains=[second], workspace="child")))
    found = said(child.recorder, child.output.summary)["texts_overlap"]
    assert [(each["calibration"], each["evaluation"]) for each in found] == [("second", "a")]


def test_forgetting_is_said_above_the_limit() -> None:
    for log_bwt, count in ((None, 0), (-1.0, 0), (FORGETTING, 0), (0.06, 1)):
        found = after_pruning(3.0, log_bwt)
        assert [each.code for each in found] == ["forgetting"] * count
    assert found[0].data == {"bwt": 3.0, "log_bwt": 0.06, "limit": FORGETTING}


def test_forgetting_is_the_whole_lineage_s(request_for: Request) -> None:
    """The figures that decide come with the parent's rows: here the first domain's own perplexity."""
    (parent,) = chain(request_for, "a")
    for entry in parent.evaluations:
        entry["perplexity"] /= 2
    child = run_job(continuing(parent, with_own_texts(request_for(domains="b", workspace="child"))))
    (found,) = said(child.recorder, child.output.summary)["forgetting"]
    assert found["log_bwt"] == child.output.summary.log_bwt > 0.5


def test_a_stage_that_changes_nothing_is_in_the_summary_too(request_for: Request) -> None:
    recorder = Recorder()
    request = request_for(domains="ab", method={"name": "wanda", "mode": "sequential"})
    (found,) = said(recorder, prune(request, recorder).summary)["masks_unchanged"]
    assert (found["stage"], found["domain"], found["mask_overlap"]) == (1, "b", 1.0)


@pytest.mark.parametrize(("stages", "blocks"), [(0, 1), (1, 0)])
def test_a_resumed_job_does_not_say_it_twice(request_for: Request, stages: int, blocks: int) -> None:
    whole = with_own_texts(request_for(domains="ab"))
    for each in whole["domains"]:
        each["calibration"]["samples"] = 4
    recorder, listener = Recorder(), Recorder()
    summary = prune(whole, recorder).summary
    assert len(said(recorder, summary)["too_few_tokens"]) == 2
    again = prune({**whole, "resume": {"stages": stages, "blocks": blocks, "evaluations": []}}, listener).summary
    assert again.warnings == summary.warnings
    assert not [data for _, _, data in listener.notes if data.get("code") in ("too_few_tokens", "texts_overlap")]
