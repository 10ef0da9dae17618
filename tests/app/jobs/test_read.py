import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import httpx
from sqlalchemy import update
from sqlalchemy.orm import Session

from app.delivery.events import append_event
from app.delivery.transitions import transition
from app.tables.event_types import EventType
from app.tables.jobs import (
    Job,
    JobAttempt,
    JobBlock,
    JobEvaluation,
    JobLog,
    JobMatrix,
    JobProgress,
    JobStage,
)
from app.tables.sensitivity import TABLES
from app.tables.states import State
from tests.app.conftest import Inputs

MATRICES = [f"model.layers.{block}.{name}.weight" for block in range(2) for name in ("k_proj", "q_proj")]


def ids(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [row["id"] for row in response.json()["data"]]


def test_filters_narrow_the_list(api: httpx.Client, inputs: Inputs, session: Session) -> None:
    def submit(**changes: Any) -> dict[str, Any]:
        return dict(api.post("/v1/jobs", json=inputs.body(**changes)).json())

    first = submit(labels={"team": "search", "run": "1"})
    second = submit(method={"name": "admm"}, labels={"team": "search"})
    third = submit(labels={"team": "a=b"})
    transition(session, session.get_one(Job, first["id"]), State.cancelled)
    session.commit()
    for query, expected in [
        ({}, [third, second, first]),
        ({"state": "queued"}, [third, second]),
        ({"state": ["queued", "cancelled"]}, [third, second, first]),
        ({"method": "admm"}, [second]),
        ({"model": inputs.model}, [third, second, first]),
        ({"model": "mdl_x"}, []),
        ({"label": "team=search"}, [second, first]),
        ({"label": ["team=search", "run=1"]}, [first]),
        ({"label": ["team=search", "team=a=b"]}, []),
        ({"label": "team=a=b"}, [third]),
        ({"created_after": "2020-01-01T00:00:00+23:59"}, [third, second, first]),
        ({"created_after": first["created_at"]}, [third, second]),
        ({"created_before": third["created_at"], "method": "copal"}, [first]),
    ]:
        assert ids(api.get("/v1/jobs", params=query)) == [job["id"] for job in expected], query
    for query in (
        {"state": "done"},
        {"label": "team"},
        {"label": "=x"},
        {"created_after": "2026-01-01T00:00:00"},
        {"created_before": "0001-01-01T00:00:00+01:00"},
    ):
        assert api.get("/v1/jobs", params=query).status_code == 422, query


def test_pages_stay_put_while_jobs_are_added(api: httpx.Client, inputs: Inputs) -> None:
    made = [api.post("/v1/jobs", json=inputs.body()).json()["id"] for _ in range(3)]
    first = api.get("/v1/jobs", params={"limit": 2}).json()
    api.post("/v1/jobs", json=inputs.body())
    second = api.get("/v1/jobs", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [row["id"] for row in first["data"] + second["data"]] == made[::-1]
    assert second["next_cursor"] is None
    foreign = api.get(f"/v1/jobs/{made[0]}/matrices", params={"cursor": first["next_cursor"]})
    assert foreign.status_code == 422


def test_an_unchanged_job_is_304(api: httpx.Client, job: str, session: Session) -> None:
    first = api.get(f"/v1/jobs/{job}")
    tag = first.headers["etag"]
    assert not tag.startswith("W/")
    assert first.headers["retry-after"] == "2"
    for value in (tag, f'"x", {tag}', "*", f"W/{tag}"):
        same = api.get(f"/v1/jobs/{job}", headers={"If-None-Match": value})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    session.add(
        JobProgress(job_id=job, phase="pruning", fraction=0.25, stage=0, stages=2, domain="law", block=1, blocks=9)
    )
    session.commit()
    moved = api.get(f"/v1/jobs/{job}", headers={"If-None-Match": tag})
    assert moved.status_code == 200
    assert moved.json()["progress"]["fraction"] == 0.25
    append_event(session, session.get_one(Job, job), EventType.note, {"level": "info", "message": ""})
    session.commit()
    assert len({tag, moved.headers["etag"], api.get(f"/v1/jobs/{job}").headers["etag"]}) == 3


def test_waiting_ends_with_the_change(api: httpx.Client, job: str, session: Session) -> None:
    url = f"/v1/jobs/{job}"
    tag = {"If-None-Match": api.get(url).headers["etag"]}
    with ThreadPoolExecutor(30) as pool:
        # Three times as many as there are connections.
        waiting = [pool.submit(api.get, url, params={"wait": 30}, headers=tag) for _ in range(29)]
        until_end = pool.submit(api.get, url, params={"wait": 30})
        started = time.monotonic()
        assert api.get("/v1/jobs").status_code == 200
        append_event(session, session.get_one(Job, job), EventType.note, {"level": "info", "message": ""})
        session.commit()
        assert {response.result().status_code for response in waiting} == {200}
        assert not until_end.done()
        assert api.post(f"{url}/cancel").status_code == 202
        assert until_end.result().json()["state"] == "cancelled"
        assert time.monotonic() - started < 20


def test_waiting_ends_with_its_time(api: httpx.Client, job: str) -> None:
    url = f"/v1/jobs/{job}"
    tag = {"If-None-Match": api.get(url).headers["etag"]}
    assert api.get(url, params={"wait": 0.2}, headers=tag).status_code == 304
    assert api.get(url, params={"wait": 0.2}).json()["state"] == "queued"
    assert api.get(url, params={"wait": -1}).status_code == 422
    assert api.get(url, params={"wait": "nan"}).status_code == 422


def test_cancelling(api: httpx.Client, inputs: Inputs, job: str, session: Session) -> None:
    first, again = api.post(f"/v1/jobs/{job}/cancel"), api.post(f"/v1/jobs/{job}/cancel")
    assert (first.status_code, again.status_code) == (202, 200)
    assert first.json() == again.json()
    assert (first.json()["state"], first.json()["cancel_requested"]) == ("cancelled", True)
    assert first.json()["finished_at"] is not None
    assert "retry-after" not in api.get(f"/v1/jobs/{job}").headers
    types = [(event["seq"], event["type"]) for event in api.get(f"/v1/jobs/{job}/events").json()["data"]]
    assert types == [(1, "created"), (2, "cancel_requested"), (3, "transition")]

    running = api.post("/v1/jobs", json=inputs.body()).json()["id"]
    transition(session, session.get_one(Job, running), State.running)
    session.commit()
    for _ in range(2):
        response = api.post(f"/v1/jobs/{running}/cancel")
        assert (response.status_code, response.json()["state"]) == (202, "cancelling")
    transition(session, session.get_one(Job, running), State.succeeded)
    session.commit()
    refused = api.post(f"/v1/jobs/{running}/cancel")
    assert (refused.status_code, refused.json()["code"]) == (409, "job_finished")


def test_events_and_logs_page_by_number(api: httpx.Client, job: str, session: Session) -> None:
    row = session.get_one(Job, job)
    for number in range(4):
        append_event(session, row, EventType.note, {"level": "info", "message": "", "number": number})
        session.add(JobLog(job_id=job, seq=number + 1, attempt=1, level="info", message=f"line {number}"))
    session.commit()
    for kind, last in (("events", 5), ("logs", 4)):
        url = f"/v1/jobs/{job}/{kind}"
        assert [each["seq"] for each in api.get(url).json()["data"]] == list(range(1, last + 1))
        page = api.get(url, params={"after": 1, "limit": 2}).json()
        assert [each["seq"] for each in page["data"]] == [2, 3]
        rest = api.get(url, params={"after": 1, "cursor": page["next_cursor"]}).json()
        assert [each["seq"] for each in rest["data"]] == list(range(4, last + 1))
        assert rest["next_cursor"] is None
        assert api.get(url, params={"after": 99}).json()["data"] == []
        assert api.get(url, params={"after": 2**31}).status_code == 422
    assert api.get(f"/v1/jobs/{job}/logs").json()["data"][0] | {"at": 0} == {
        "seq": 1, "at": 0, "attempt": 1, "level": "info", "message": "line 0",
    }  # fmt: skip


def test_the_last_lines_come_first(api: httpx.Client, job: str, session: Session) -> None:
    url = f"/v1/jobs/{job}/logs/tail"
    assert api.get(url).json()["data"] == []
    for number in range(5):
        session.add(JobLog(job_id=job, seq=number + 1, attempt=1, level="info", message=f"line {number}"))
    session.commit()
    page = api.get(url, params={"limit": 3}).json()
    assert [each["message"] for each in page["data"]] == ["line 4", "line 3", "line 2"]
    rest = api.get(url, params={"limit": 3, "cursor": page["next_cursor"]}).json()
    assert ([each["seq"] for each in rest["data"]], rest["next_cursor"]) == ([2, 1], None)
    assert api.get(url, params={"cursor": "nonsense"}).status_code == 422
    assert api.get(url, params={"limit": 1001}).status_code == 422


ENGINE = {"engine_format": 1, "device": "cpu", "threads": 1, "isolation": {"tied": True, "network": False}}


def fill(session: Session, job: str) -> None:
    """What a worker leaves behind after one stage of two blocks."""
    attempt = JobAttempt(job_id=job, number=1, fence=1, worker="w@host", outcome="succeeded", engine=ENGINE)
    session.add(attempt)
    done = {"state": "done", "blocks": 2, "sparsity": 0.5, "weights": 8, "zeros": 4, "held_out_error": 0.2}
    done |= {"mask_overlap": 0.875}
    session.execute(update(JobStage).where(JobStage.job_id == job, JobStage.stage == 0).values(done))
    for block in range(2):
        session.add(JobBlock(job_id=job, stage=0, block=block, fence=1, attempt=1, engine_format=1, files=[]))
    for index, matrix in enumerate(MATRICES):
        place = {"job_id": job, "stage": 0, "block": index // 2, "matrix": matrix}
        session.add(
            JobMatrix(
                **place, rows=2, columns=2, weights=4, zeros=2, sparsity=0.5, target=0.5, pattern="unstructured",
                relative_error=0.1, held_out_error=0.2, seconds=0.5, solver="admm", notes={}, mask_changed=0.125,
                mask_overlap=0.75, revived=0.0, newly_pruned=0.125, domain_errors={"law": 0.1, "code": None},
                mask_sha256="a" * 64, weights_sha256="b" * 64,
            )
        )  # fmt: skip
        shape = {"quantiles": {"0.5": 1.0}, "histogram": {"scale": "log10", "edges": [0, 1], "counts": [4]}}
        session.add_all(table(**place, domain="law", mean=1.0, total=4.0, **shape) for table in TABLES.values())
    measured = {"loss": 2.3, "windows": 2, "tokens": 64, "window_losses": [2.3], "protocol": {"dtype": "float32"}}
    session.add_all(
        JobEvaluation(job_id=job, row=row, domain="law", perplexity=10.0 + row, **measured) for row in (0, 1)
    )
    session.commit()


def test_history_is_there_while_the_job_runs(api: httpx.Client, job: str, session: Session) -> None:
    fill(session, job)
    url = f"/v1/jobs/{job}"
    attempt = api.get(f"{url}/attempts").json()["data"][0]
    assert (attempt["number"], attempt["worker"], attempt["fence"], attempt["outcome"]) == (
        1,
        "w@host",
        1,
        "succeeded",
    )
    assert attempt["engine"] == ENGINE
    stages = api.get(f"{url}/stages").json()["data"]
    assert [(row["domain"], row["state"], row["blocks_done"], row["blocks"]) for row in stages] == [
        ("law", "done", 2, 2),
        ("code", "pending", 0, None),
    ]
    assert [row["held_out_error"] for row in stages] == [0.2, None]
    assert [row["mask_overlap"] for row in stages] == [0.875, None]
    records = api.get(f"{url}/matrices").json()["data"]
    assert {row["held_out_error"] for row in records} == {0.2}
    figures = ("mask_changed", "mask_overlap", "revived", "newly_pruned")
    assert {tuple(row[name] for name in figures) for row in records} == {(0.125, 0.75, 0.0, 0.125)}
    assert records[0]["domain_errors"] == {"law": 0.1, "code": None}
    assert (records[0]["mask_sha256"], records[0]["weights_sha256"]) == ("a" * 64, "b" * 64)
    evaluation = api.get(f"{url}/evaluation").json()
    assert (evaluation["object"], evaluation["job"], evaluation["domains"]) == ("evaluation", job, ["law"])
    assert [row["perplexity"] for row in evaluation["rows"]] == [{"law": 10.0}, {"law": 11.0}]
    assert evaluation["protocols"]["law"] == {"dtype": "float32", "windows": 2, "tokens": 64}


def test_records_and_sensitivities_are_filtered_and_paged(api: httpx.Client, job: str, session: Session) -> None:
    fill(session, job)
    for kind in ("matrices", "sensitivity"):
        url = f"/v1/jobs/{job}/{kind}"
        page = api.get(url, params={"limit": 3}).json()
        rest = api.get(url, params={"limit": 3, "cursor": page["next_cursor"]}).json()
        assert [row["matrix"] for row in page["data"] + rest["data"]] == MATRICES
        assert {row["domain"] for row in page["data"]} == {"law"}
        assert rest["next_cursor"] is None
        assert len(api.get(url, params={"block": 1}).json()["data"]) == 2
        assert len(api.get(url, params={"stage": 1}).json()["data"]) == 0
        assert len(api.get(url, params={"matrix": MATRICES[0]}).json()["data"]) == 1
        assert api.get(url, params={"block": -1}).status_code == 422
    assert len(api.get(f"/v1/jobs/{job}/sensitivity", params={"domain": "code"}).json()["data"]) == 0


def test_times_are_utc(api: httpx.Client, job: str) -> None:
    moment = api.get(f"/v1/jobs/{job}").json()["created_at"]
    assert moment.endswith("Z")
    assert datetime.fromisoformat(moment).tzinfo is not None
