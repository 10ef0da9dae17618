import io
import json
import subprocess
import sys
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from app.history import export
from app.tables.jobs import Job, JobMatrix, JobStage
from secateur.spec.records.history import Basis
from tests.app.conftest import Inputs
from tests.histories import QUANTILES, fill, matrix_of


@pytest.fixture
def filled(session: Session, job: str) -> str:
    """A job with one finished stage, and one under way."""
    fill(session, job, 0, domain="law")
    fill(session, job, 1, domain="code", scale=10.0, done=False)
    return job


def rows(api: httpx.Client, url: str, **query: Any) -> list[dict[str, Any]]:
    response = api.get(url, params=query)
    assert response.status_code == 200, response.text
    return list(response.json()["data"])


def every_page(api: httpx.Client, url: str, limit: int, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = api.get(url, params={**query, **cursor, "limit": limit}).json()
        assert len(page["data"]) <= limit
        found += page["data"]
        if page["next_cursor"] is None:
            return found
        cursor = {"cursor": page["next_cursor"]}


def test_shares_are_of_the_whole_finished_stage(api: httpx.Client, filled: str) -> None:
    url = f"/v1/jobs/{filled}/sensitivity"
    first = rows(api, url, stage=0)
    assert [row["share"] for row in first] == pytest.approx([number / 21 for number in range(1, 7)])
    assert {(row["job"], row["lineage_stage"]) for row in first} == {(filled, 0)}
    # What a row says does not depend on what is asked for with it.
    assert rows(api, url, stage=0, block=2) == first[4:]
    assert {row["share"] for row in rows(api, url, stage=1)} == {None}


def test_a_stage_of_zeros_has_no_shares(api: httpx.Client, session: Session, job: str) -> None:
    fill(session, job, 0, domain="law", scale=0.0)
    assert {row["share"] for row in rows(api, f"/v1/jobs/{job}/sensitivity")} == {None}
    assert {row["share"] for row in rows(api, f"/v1/jobs/{job}/sensitivity/blocks")} == {None}


def test_a_basis_has_its_own_figures_and_shares(api: httpx.Client, filled: str) -> None:
    """What is asked for without one is what the stage's domain alone gives."""
    url = f"/v1/jobs/{filled}/sensitivity"
    for part in ("", "/blocks"):
        assert rows(api, url + part) == rows(api, url + part, basis="domain")
        assert {row["basis"] for row in rows(api, url + part)} == {"domain"}
    chosen = rows(api, url, stage=0, basis="accumulated")
    assert {row["basis"] for row in chosen} == {"accumulated"}
    assert [row["total"] for row in chosen] == [60.0, 50.0, 40.0, 30.0, 20.0, 10.0]
    assert [row["share"] for row in chosen] == pytest.approx([number / 21 for number in range(6, 0, -1)])
    blocks = rows(api, f"{url}/blocks", stage=0, basis="accumulated")
    assert [(row["basis"], row["total"], row["weights"]) for row in blocks] == [
        ("accumulated", total, 12) for total in (110.0, 70.0, 30.0)
    ]
    assert [row["share"] for row in blocks] == pytest.approx([11 / 21, 7 / 21, 3 / 21])
    exported = table_of(api.get(f"{url}.parquet", params={"basis": "accumulated", "stage": 0}))
    assert [(row["basis"], row["sensitivity_total"], row["sensitivity_share"]) for row in exported] == [
        ("accumulated", row["total"], row["share"]) for row in chosen
    ]
    assert api.get(url, params={"basis": "both"}).status_code == 422


def test_stages_of_earlier_releases_have_what_chose_their_masks(
    api: httpx.Client, session: Session, job: str
) -> None:
    fill(session, job, 0, domain="law", bases=[Basis.accumulated])
    url = f"/v1/jobs/{job}/sensitivity"
    for part in ("", "/blocks"):
        assert rows(api, url + part, domain="law") == []
        assert len(rows(api, url + part, domain="law", basis="accumulated")) == (3 if part else 6)


def test_blocks_add_up_their_matrices(api: httpx.Client, filled: str) -> None:
    url = f"/v1/jobs/{filled}/sensitivity/blocks"
    first = rows(api, url, stage=0)
    assert [(row["block"], row["matrices"], row["weights"], row["total"]) for row in first] == [
        (0, 2, 12, 3.0),
        (1, 2, 12, 7.0),
        (2, 2, 12, 11.0),
    ]
    assert [row["mean"] for row in first] == pytest.approx([3 / 12, 7 / 12, 11 / 12])
    assert [row["share"] for row in first] == pytest.approx([3 / 21, 7 / 21, 11 / 21])
    assert {(row["job"], row["stage"], row["lineage_stage"], row["domain"]) for row in first} == {
        (filled, 0, 0, "law")
    }
    assert [row["share"] for row in rows(api, url, matrix="*.q_proj.*", domain="law")] == pytest.approx(
        [2 / 21, 4 / 21, 6 / 21]
    )


@pytest.mark.parametrize(("part", "count"), [("", 12), ("/blocks", 6)])
def test_pages_join_to_the_whole(api: httpx.Client, filled: str, part: str, count: int) -> None:
    url = f"/v1/jobs/{filled}/sensitivity{part}"
    whole = rows(api, url, limit=1000)
    assert len(whole) == count
    for limit in (1, 4, count):
        assert every_page(api, url, limit) == whole
    cursor = api.get(f"/v1/jobs/{filled}/events", params={"limit": 1}).json()["next_cursor"]
    for bad in (cursor or "W10", "x"):
        assert api.get(url, params={"cursor": bad}).status_code == 422


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ({"matrix": "*.q_proj.*"}, 6),
        ({"matrix": "model.layers.?.q_proj.weight", "stage": 1}, 3),
        ({"matrix": matrix_of(1, "q_proj")}, 2),
        ({"domain": "code", "block": 0}, 2),
        ({"domain": "none"}, 0),
        ({"stage": 7}, 0),
    ],
)
def test_filters_narrow_every_form_of_the_history(
    api: httpx.Client, filled: str, query: dict[str, Any], count: int
) -> None:
    found = rows(api, f"/v1/jobs/{filled}/sensitivity", **query)
    assert len(found) == count
    exported = table_of(api.get(f"/v1/jobs/{filled}/sensitivity.parquet", params=query))
    assert [(row["stage"], row["matrix"]) for row in exported] == [(row["stage"], row["matrix"]) for row in found]
    records = rows(api, f"/v1/jobs/{filled}/matrices", **query)
    assert [(row["stage"], row["matrix"]) for row in records] == [(row["stage"], row["matrix"]) for row in found]


def table_of(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/octet-stream"
    return list(pq.read_table(io.BytesIO(response.content)).to_pylist())


def test_the_file_says_what_the_json_says(api: httpx.Client, filled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In several row groups."""
    monkeypatch.setattr(export, "RECORDS", 5)
    response = api.get(f"/v1/jobs/{filled}/sensitivity.parquet")
    assert response.headers["content-disposition"] == f'attachment; filename="{filled}-history.parquet"'
    file = pq.ParquetFile(io.BytesIO(response.content))
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [5, 1, 5, 1]
    assert file.schema_arrow.metadata[b"secateur.job"] == filled.encode()
    found = table_of(response)
    summaries = rows(api, f"/v1/jobs/{filled}/sensitivity", limit=1000)
    matrices = rows(api, f"/v1/jobs/{filled}/matrices", limit=1000)
    assert len(found) == len(summaries) == len(matrices) == 12
    for row, summary, record in zip(found, summaries, matrices, strict=True):
        for name in ("job", "stage", "lineage_stage", "domain", "block", "matrix", "basis"):
            assert row[name] == summary[name]
        for name in ("mean", "total", "share"):
            assert row[f"sensitivity_{name}"] == summary[name]
        assert {name: row[f"sensitivity_q{name}"] for name in QUANTILES} == summary["quantiles"]
        assert {name: row[f"histogram_{name}"] for name in ("scale", "edges", "counts")} == summary["histogram"]
        plain = set(record) - {"notes", "domain_errors"}
        assert {name: row[name] for name in plain} == {name: record[name] for name in plain}
        assert json.loads(row["notes"]) == record["notes"]
        assert dict(row["domain_errors"]) == record["domain_errors"]


def test_a_job_without_history_has_an_empty_file(api: httpx.Client, job: str) -> None:
    response = api.get(f"/v1/jobs/{job}/sensitivity.parquet")
    assert table_of(response) == []
    assert "mask_overlap" in pq.read_schema(io.BytesIO(response.content)).names


def test_a_matrix_without_a_record_is_there_all_the_same(api: httpx.Client, session: Session, filled: str) -> None:
    session.query(JobMatrix).filter_by(job_id=filled, stage=0, matrix=matrix_of(0, "q_proj")).delete()
    session.commit()
    found = table_of(api.get(f"/v1/jobs/{filled}/sensitivity.parquet", params={"stage": 0, "block": 0}))
    assert [row["rows"] for row in found] == [2, None]
    assert found[1]["notes"] is found[1]["domain_errors"] is None
    assert found[1]["sensitivity_total"] == 2.0


def test_a_stage_without_summaries_keeps_its_records(
    api: httpx.Client, session: Session, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an earlier release, which knew only the scores that chose the mask; the next stage has both."""
    monkeypatch.setattr(export, "RECORDS", 4)
    fill(session, job, 0, domain="law", bases=[Basis.accumulated])
    fill(session, job, 1, domain="code")
    url = f"/v1/jobs/{job}/sensitivity.parquet"
    found = table_of(api.get(url))
    assert [(row["stage"], row["domain"]) for row in found] == 6 * [(0, "law")] + 6 * [(1, "code")]
    assert [row["matrix"] for row in found[:6]] == [row["matrix"] for row in found[6:]]
    assert {(row["mask_sha256"], row["relative_error"], row["solver"]) for row in found} == {
        ("a" * 64, 0.1, "admm")
    }
    for name in ("total", "share", "mean", "q0.5"):
        assert {row[f"sensitivity_{name}"] for row in found[:6]} == {None}
        assert None not in {row[f"sensitivity_{name}"] for row in found[6:]}
    assert {row["histogram_edges"] is None for row in found[:6]} == {True}
    assert len(table_of(api.get(url, params={"domain": "law", "block": 1, "matrix": "*.q_proj.*"}))) == 1
    assert None not in {
        row["sensitivity_total"] for row in table_of(api.get(url, params={"basis": "accumulated"}))
    }


def test_somebody_elses_history_is_not_there(api: httpx.Client, stranger: httpx.Client, filled: str) -> None:
    for part in ("sensitivity", "sensitivity/blocks", "sensitivity.parquet"):
        theirs = stranger.get(f"/v1/jobs/{filled}/{part}")
        assert (theirs.status_code, theirs.json()["code"]) == (404, "job_not_found")


def test_the_service_starts_without_arrow() -> None:
    program = "import sys, app.main; print('pyarrow' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.fixture
def child(session: Session, api: httpx.Client, inputs: Inputs, filled: str) -> str:
    """A job of one stage that continues one of two, both of which are finished here."""
    session.execute(update(JobStage).where(JobStage.job_id == filled).values(state="done"))
    domains = [{"name": "poems", "dataset": inputs.first}]
    made = str(api.post("/v1/jobs", json=inputs.body(domains=domains)).json()["id"])
    session.execute(update(Job).where(Job.id == made).values(continues=filled, lineage_id=filled, first_stage=2))
    session.commit()
    fill(session, made, 0, domain="poems", scale=3.0)
    return made


def test_a_lineages_history_begins_with_its_first_job(api: httpx.Client, filled: str, child: str) -> None:
    url = f"/v1/jobs/{child}/sensitivity"
    own = rows(api, url)
    assert {(row["job"], row["stage"], row["lineage_stage"]) for row in own} == {(child, 0, 2)}
    whole = every_page(api, url, 5, lineage=True)
    places = list(dict.fromkeys((row["job"], row["stage"], row["lineage_stage"], row["domain"]) for row in whole))
    assert places == [(filled, 0, 0, "law"), (filled, 1, 1, "code"), (child, 0, 2, "poems")]
    assert whole[12:] == own
    for stage in range(3):
        shares = [row["share"] for row in whole[6 * stage : 6 * stage + 6]]
        assert shares == pytest.approx([number / 21 for number in range(1, 7)])
    # A stage is counted as what is asked for counts it.
    assert rows(api, url, lineage=True, stage=2) == rows(api, url, stage=0) == own
    assert rows(api, url, stage=2) == []
    blocks = every_page(api, f"{url}/blocks", 2, lineage=True)
    assert [(row["lineage_stage"], row["block"]) for row in blocks] == [(s, b) for s in range(3) for b in range(3)]
    exported = table_of(api.get(f"{url}.parquet", params={"lineage": True}))
    assert [(row["job"], row["lineage_stage"], row["matrix"]) for row in exported] == [
        (row["job"], row["lineage_stage"], row["matrix"]) for row in whole
    ]


def test_a_lineages_records_begin_with_its_first_job(api: httpx.Client, filled: str, child: str) -> None:
    url = f"/v1/jobs/{child}/matrices"
    whole = every_page(api, url, 5, lineage=True)
    summaries = rows(api, f"/v1/jobs/{child}/sensitivity", lineage=True)
    for name in ("job", "stage", "lineage_stage", "domain", "block", "matrix"):
        assert [row[name] for row in whole] == [row[name] for row in summaries], name
    own = rows(api, url)
    assert whole[12:] == own == rows(api, url, lineage=True, stage=2) == rows(api, url, stage=0)
    assert rows(api, url, stage=2) == []
    assert rows(api, url, lineage=True, domain="code", block=1) == whole[8:10]
    assert {row["job"] for row in rows(api, f"/v1/jobs/{filled}/matrices", lineage=True)} == {filled}


def test_a_parents_history_does_not_know_its_children(api: httpx.Client, filled: str, child: str) -> None:
    found = rows(api, f"/v1/jobs/{filled}/sensitivity", lineage=True, limit=1000)
    assert {row["job"] for row in found} == {filled}
    assert len(found) == 12
