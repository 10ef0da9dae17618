"""The continual benchmark on a tiny model: shared stages, their cache, what R and the joint ceiling are.

Slow: that stages are shared shows only in stages that were made.
"""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import continual, continual_stages
from benchmarks.child import Finished, run_child
from benchmarks.continual_rows import ORDERS
from benchmarks.continual_stages import Stages
from benchmarks.protocol import TESTS
from secateur.spec.records.pipe import Evaluation, Message
from tests.benchmarks.conftest import command, folders, row
from worker.pruning import EvaluationSpec, Format, PruningJob, Silent, Text, perplexities, run

pytestmark = pytest.mark.slow


def r_of(stages: Stages, name: str) -> list[dict[str, float]]:
    return [stages.perplexity(stages.figures(stage)["losses"]) for stage in row(name).stages]


def whole_job(stages: Stages, name: str, workspace: Path) -> dict[tuple[int, str], float]:
    """R of one job over all the row's domains, dense row included, as the engine evaluates it."""
    asked = row(name)
    request = stages.request(asked.stages[0], workspace) | {"method": asked.setting.method}
    tests = {
        domain: {"path": str(stages.protocol.data / p), "format": kind} for domain, (p, kind) in TESTS.items()
    }
    learned = [stages.learned(domain) for domain in asked.domains]
    domains = [each["domains"][0] | {"evaluation": f"{each['domains'][0]['name']} test"} for each in learned]
    texts = {f"{domain} test": tests[domain] for domain in asked.domains}
    for each in learned:
        texts |= each["texts"]
    spec = {"sequence_length": stages.protocol.window_length, "max_windows": stages.protocol.windows}
    evaluated: dict[tuple[int, str], float] = {}

    class Listener(Silent):
        def tell(self, record: Message) -> None:
            if isinstance(record, Evaluation):
                evaluated[record.row, record.domain] = record.perplexity

    run(PruningJob.from_dict(request | {"domains": domains, "texts": texts, "evaluation": spec}), Listener())
    return evaluated


def test_stages_that_rows_share_are_pruned_once(stages: Stages, made: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    chosen = command(stages, out, "--rows", "wanda/*,wanda:restart/*", "--orders", "wpc,wcp")
    assert continual.main(chosen) == 0
    assert made == ["w", "wp", "wpc", "wc", "wcp", "joint", "p", "c"]
    first = json.loads(out.read_text())
    assert set(first["rows"]) == {
        "wanda/wpc",
        "wanda/wcp",
        "wanda/joint",
        "wanda:restart/wpc",
        "wanda:restart/wcp",
    }
    assert all(each["sparsity"] == 0.5 for each in first["rows"].values())
    assert folders(stages) == []
    assert continual.main(chosen) == 0
    assert len(made) == 8
    assert json.loads(out.read_text()) == first


def test_a_stage_is_pruned_in_a_process_of_its_own(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    here = stages.figures(row("copal/wpc").stages[1])
    monkeypatch.setattr(continual_stages, "run_child", run_child)
    other = replace(stages, cache=stages.cache / "other")
    other.cache.mkdir()
    apart = other.figures(row("copal/wpc").stages[1])
    for domain, losses in here["losses"].items():
        assert apart["losses"][domain] == pytest.approx(losses)
    assert apart["state_bytes"] == here["state_bytes"] > 0
    assert apart["peak_rss_bytes"] > 1


@pytest.mark.parametrize("name", ["copal+admm/wpc", "wanda:sequential/wpc", "admm:restart/wpc"])
def test_r_of_a_lineage_is_that_of_one_job_over_all_domains(stages: Stages, name: str, tmp_path: Path) -> None:
    expected = whole_job(stages, name, tmp_path / "whole")
    found = [stages.perplexity(stages.dense()["losses"]), *r_of(stages, name)]
    for (number, domain), perplexity in expected.items():
        assert found[number][domain] == pytest.approx(perplexity, rel=1e-6), (number, domain)
    assert len(expected) == 4 * 3


def test_a_run_that_was_broken_off_goes_on_where_it_stopped(
    stages: Stages, made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spied = continual_stages.run_child

    def interrupted(command: list[str], request: dict[str, Any], threads: int) -> Finished:
        if len(request.get("base", {}).get("domains", [])) == 2:
            raise KeyboardInterrupt
        return spied(command, request, threads)

    chosen = command(stages, tmp_path / "out.json", "--rows", "wanda/wpc")
    with monkeypatch.context() as patched:
        patched.setattr(continual_stages, "run_child", interrupted)
        with pytest.raises(KeyboardInterrupt):
            continual.main(chosen)
    assert len(folders(stages)) == 2
    assert continual.main(chosen) == 0
    assert made == ["w", "wp", "wpc"]


def test_folders_of_another_engine_are_swept_and_kept_ones_stay(
    stages: Stages, made: list[str], tmp_path: Path
) -> None:
    (stages.cache / "stages" / "old").mkdir(parents=True)
    assert continual.main(command(stages, tmp_path / "o.json", "--rows", "wanda/wpc", "--keep-stages")) == 0
    assert len(folders(stages)) == 4
    assert continual.main(command(stages, tmp_path / "o.json", "--rows", "wanda/wpc")) == 0
    assert folders(stages) == []
    assert made == ["w", "wp", "wpc"]


def test_variants_are_chosen_on_windows_that_are_not_reported(
    stages: Stages, made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(continual, "CHOOSING", (2, 3))
    out = tmp_path / "out.json"
    assert continual.main(command(stages, out, "--rows", "wanda/wpc", "--choose")) == 0
    choosing = json.loads(out.read_text())
    assert (choosing["protocol"]["first_window"], choosing["protocol"]["windows"]) == (2, 3)
    texts = {
        name: Text(path=stages.protocol.data / path, format=Format(kind)) for name, (path, kind) in TESTS.items()
    }
    losses = perplexities(stages.model, texts, EvaluationSpec(sequence_length=16, max_windows=5), threads=1)[
        "c4"
    ].window_losses
    assert choosing["dense"]["c4"] == pytest.approx(math.exp(math.fsum(losses[2:]) / 3))
    assert choosing["rows"]["wanda/wpc"]["stages"] == ["c4"]  # the others are not evaluated
    assert choosing["goals"] == []
    assert continual.main(command(stages, out, "--rows", "wanda/wpc")) == 0
    reported = json.loads(out.read_text())
    assert reported["dense"]["c4"] == pytest.approx(stages.perplexity({"c4": losses[:2]})["c4"])
    assert reported["rows"]["wanda/wpc"]["final"] != choosing["rows"]["wanda/wpc"]["final"]
    assert made == ["w", "wp", "wpc", "w", "wp"]  # the last stage's windows to report were evaluated on the way


def test_a_failed_stage_fails_its_rows_only(
    stages: Stages, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row("wanda/wpc"), row("copal/wpc")]
    broken = replace(rows[0], setting=replace(rows[0].setting, sparsity={"target": 0.5, "pattern": "2:6"}))
    found, failed = continual.fill(stages, [broken, rows[1]], keep=False)
    assert list(found) == ["copal/wpc"]
    assert list(failed) == ["wanda/wpc"]
    assert "| wanda/wpc | failed |" in capsys.readouterr().out


def test_a_test_text_with_too_few_windows_is_said(stages: Stages) -> None:
    asking = replace(stages, first=10_000)
    with pytest.raises(ValueError, match=r"windows; 10002 are asked for"):
        asking.dense()


def test_keys_tell_apart_what_gives_other_figures_and_nothing_else(stages: Stages, tmp_path: Path) -> None:
    stage = row("copal/wpc").stages[1]
    key = stages.key(stage)
    same = row("copal:own_terms:domain_shift/wpc").stages[1]
    assert stages.key(same) == key  # the defaults, spelt out
    assert replace(stages, first=10).key(stage) == key  # windows have a loss each
    others = [row("copal/wcp"), row("copal@uniform/wpc"), row("copal:token:relative/wpc"), row("copal@2:4/wpc")]
    keys = [stages.key(other.stages[1]) for other in others]
    keys += [stages.key(row("copal/wpc").stages[0]), replace(stages, dtype="bfloat16").key(stage)]
    for change in ({"samples": 5}, {"seed": 1}, {"sequence_length": 16}, {"window_length": 8}, {"threads": 2}):
        keys.append(replace(stages, protocol=replace(stages.protocol, **change)).key(stage))
    assert all(other != key for other in keys)


def test_every_row_is_listed_once_and_headlines_in_every_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert continual.main(["--list", "--rows", "*"]) == 0
    names = capsys.readouterr().out.split()
    assert len(set(names)) == len(names)
    for name in ("wanda", "copal", "admm", "copal+admm"):
        assert {f"{name}/{order}" for order in (*ORDERS, "joint")} <= set(names)
    assert {"copal:sample:relative/wpc", "copal:fisher:domain_shift:matrix@uniform/wpc", "admm@2:4/wpc"} <= set(
        names
    )
    assert {"admm:sequential/wpc", "wanda:restart/cpw", "auto/wpc"} <= set(names)


def test_unless_rows_are_named_the_main_ones_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert continual.main(["--list"]) == 0
    names = capsys.readouterr().out.split()
    assert len(names) == len(set(names)) == 4 * 7 + 4 + 4 + 10
    assert {"admm/cpw", "copal/joint", "wanda:restart/wpc", "copal@2:4/wpc", "copal:token:relative/wpc"} <= set(
        names
    )


@pytest.mark.parametrize("wrong", [["--rows", "no such/*"], ["--orders", "wpw"]])
def test_names_that_match_nothing_end_the_program(wrong: list[str]) -> None:
    with pytest.raises(SystemExit, match=wrong[1].replace("*", r"\*")):
        continual.main([*wrong, "--list"])


def test_two_runs_do_not_sweep_each_others_stages(stages: Stages, tmp_path: Path) -> None:
    chosen = command(stages, tmp_path / "o.json", "--rows", "wanda/wpc")
    with continual.alone(stages.cache), pytest.raises(SystemExit, match="another run is making stages"):
        continual.main(chosen)
    with continual.alone(stages.cache):
        pass
