"""The history in client and command line, against scripted answers."""

import json
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from secateur import Client, DownloadError, ProblemError
from tests.secateur.conftest import Connect, Reply, Run, ScriptedServer

PLACE = {"job": "job_1", "stage": 0, "lineage_stage": 2, "domain": "law", "block": 1, "basis": "domain"}
ROW = {**PLACE, "matrix": "q_proj", "mean": 0.25, "total": 2.0, "share": 0.125, "quantiles": {"0.5": 0.2}}


@pytest.fixture
def client(connect: Connect, scripted: ScriptedServer) -> Client:
    return connect(scripted.url, "sctr_key", retry_seconds=2)


def query(scripted: ScriptedServer, index: int = -1) -> dict[str, list[str]]:
    return parse_qs(urlsplit(scripted.requests[index].path).query)


def two(job: float | None, other: float | None) -> dict[str, float | None]:
    return {"job": job, "other": other, "difference": None}


def test_sensitivity_prints_a_line_a_matrix(run: Run, scripted: ScriptedServer) -> None:
    scripted.script = [Reply.json({"data": [ROW, {**ROW, "share": None}], "next_cursor": None})]
    code, out, _ = run("sensitivity", "job_1", "--matrix", "*_proj", "--lineage", "--basis", "accumulated")
    assert code == 0
    assert [line.split() for line in out.splitlines()[1:]] == [
        ["2", "law", "1", "q_proj", "0.25", "0.2", "12.500%"],
        ["2", "law", "1", "q_proj", "0.25", "0.2", "–"],
    ]
    assert query(scripted) == {"matrix": ["*_proj"], "lineage": ["true"], "basis": ["accumulated"]}


def test_layers_prints_a_line_a_matrix(run: Run, scripted: ScriptedServer) -> None:
    figures = {
        "sparsity": 0.5,
        "solver": "admm",
        "relative_error": 0.02,
        "held_out_error": None,
        "mask_overlap": 0.9,
    }
    record = {**PLACE, "matrix": "q_proj", **figures}
    scripted.script = [Reply.json({"data": [record], "next_cursor": None})] * 2
    code, out, _ = run("matrices", "job_1", "--domain", "law", "--lineage")
    assert code == 0
    line = ["2", "law", "1", "q_proj", "50.0%", "admm", "0.0200", "–", "90.0%"]
    assert out.splitlines()[1].split() == line
    assert query(scripted) == {"domain": ["law"], "lineage": ["true"]}
    assert urlsplit(scripted.requests[0].path).path == "/v1/jobs/job_1/matrices"
    assert json.loads(run("matrices", "job_1", "--json")[1]) == [record]


def test_blocks_have_a_view_of_their_own(run: Run, scripted: ScriptedServer) -> None:
    block = {**PLACE, "matrices": 7, "weights": 8, "mean": 0.5, "total": 4.0, "share": 0.25}
    scripted.script = [Reply.json({"data": [block], "next_cursor": None})]
    out = run("sensitivity", "job_1", "--blocks", "--stage", "0")[1]
    assert out.splitlines()[1].split() == ["2", "law", "1", "7", "0.5", "25.000%"]
    assert urlsplit(scripted.requests[0].path).path == "/v1/jobs/job_1/sensitivity/blocks"


def test_the_file_is_written_whole_or_not_at_all(run: Run, scripted: ScriptedServer, tmp_path: Path) -> None:
    """A break in the middle begins again."""
    target = tmp_path / "history.parquet"
    content = b"PAR1" * 1000
    scripted.script = [Reply(body=content, cut=100), Reply(status=503), Reply(body=content)]
    code, out, _ = run("sensitivity", "job_1", "--parquet", str(target), "--domain", "law")
    assert (code, out) == (0, f"{target}: 4,000 bytes\n")
    assert target.read_bytes() == content
    assert query(scripted) == {"domain": ["law"]}
    assert [path.name for path in tmp_path.iterdir()] == ["history.parquet"]


def test_a_failed_export_leaves_what_was_there(
    connect: Connect, client: Client, scripted: ScriptedServer, tmp_path: Path
) -> None:
    target = tmp_path / "history.parquet"
    target.write_bytes(b"earlier")
    scripted.script = [Reply.json({"code": "job_not_found", "detail": "no"}, 404)]
    with pytest.raises(ProblemError):
        client.export_history("job_1", target)
    scripted.script = [Reply.json({"code": "job_unfinished", "detail": "no"}, 409)]
    with pytest.raises(ProblemError) as refused:
        client.export_history("job_1", target)
    assert refused.value.code == "job_unfinished"
    scripted.answer = lambda _: Reply(body=b"x" * 50, cut=10)
    with pytest.raises(DownloadError, match="broke"):
        connect(scripted.url, "sctr_key", retry_seconds=0).export_history("job_1", target)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"earlier"]


def test_a_file_has_no_other_form(run: Run, tmp_path: Path) -> None:
    code, _, said = run("sensitivity", "job_1", "--parquet", str(tmp_path / "x"), "--json")
    assert code == 2
    assert "--parquet" in said


def comparison(matrices: list[str], cursor: str | None, *, evaluation: bool = True) -> Reply:
    rows = [{"row": 0, "after": None, "other_after": None, "perplexity": {"law": two(8.0, 8.0)}}]
    rows.append({"row": 1, "after": "law", "other_after": "code", "perplexity": {"law": two(9.0, None)}})
    compared = {
        "domains": ["law"],
        "rows": rows,
        "mean_perplexity": two(9.0, 9.5),
        "bwt": two(None, None),
    }
    data = [
        {
            "matrix": name,
            "sparsity": two(0.5, 0.75),
            "relative_error": two(0.1, None),
            "sensitivity_share": two(0.25, 0.2),
            "same_mask": False,
            "same_weights": None,
        }
        for name in matrices
    ]
    history = {
        "job": {"stage": 0, "domain": "law"},
        "other": {"stage": 1, "domain": "code"},
        "agreement": {"matrices": 3, "same_masks": 2, "same_weights": 1},
        "matrices": {"data": data, "next_cursor": cursor},
    }
    return Reply.json({"evaluation": compared if evaluation else None, "history": history})


def test_a_comparison_has_all_matrices(client: Client, scripted: ScriptedServer) -> None:
    scripted.script = [comparison(["a", "b"], "more"), comparison(["c"], None, evaluation=False)]
    found = client.compare("job_1", "job_2", matrix="*")
    assert [row["matrix"] for row in found["history"]["matrices"]["data"]] == ["a", "b", "c"]
    assert found["evaluation"]["domains"] == ["law"]
    assert query(scripted, 0) == {"matrix": ["*"]}
    assert query(scripted, 1) == {"matrix": ["*"], "part": ["history"], "cursor": ["more"]}


def test_compare_prints_both_sides(run: Run, scripted: ScriptedServer) -> None:
    scripted.script = [comparison(["a"], None)]
    code, out, _ = run("compare", "job_1", "job_2")
    assert code == 0
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[1:4] == ["(dense) 8.00 → 8.00", "law | code 9.00 → –", "mean perplexity 9.00 → 9.50 · BWT – → –"]
    assert lines[4] == "stage 0 (law) against stage 1 (code)"
    assert lines[6] == "a 0.500 → 0.750 0.1000 → – 0.2500 → 0.2000 other –"
    assert lines[7] == "3 matrices: 2 with the same mask, 1 with the same weights"


def test_compare_as_json_is_the_answer(run: Run, scripted: ScriptedServer) -> None:
    scripted.script = [Reply.json({"evaluation": None, "history": None})]
    code, out, _ = run("compare", "job_1", "job_2", "--part", "history", "--json")
    assert (code, json.loads(out)) == (0, {"evaluation": None, "history": None})
