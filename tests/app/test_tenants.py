"""Somebody else's things do not exist, whatever one tries."""

import httpx
from sqlalchemy.orm import Session

from app.tables.jobs import Job
from tests.app.conftest import Inputs


def test_every_resource_of_another_project_is_404(
    api: httpx.Client, stranger: httpx.Client, inputs: Inputs, job: str, session: Session
) -> None:
    row = session.get_one(Job, job)
    row.manifest = {"digest": "0" * 64, "bytes": 0, "files": [], "provenance": {}}
    session.commit()
    parts = (
        "",
        "/events",
        "/logs",
        "/logs/tail",
        "/attempts",
        "/stages",
        "/evaluation",
        "/matrices",
        "/sensitivity",
        "/sensitivity/blocks",
        "/sensitivity.parquet",
        f"/compare/{job}",
        "/artifacts",
        "/lineage",
        "/queue",
        "/state",
    )
    places = [("GET", f"/v1/jobs/{job}{part}") for part in parts]
    places += [("GET", f"/v1/jobs/{job}/artifacts/report.json"), ("PATCH", f"/v1/jobs/{job}")]
    places += [("POST", f"/v1/jobs/{job}/{call}") for call in ("cancel", "pause", "resume", "retry")]
    for kind, id in (("datasets", inputs.first), ("models", inputs.model)):
        places += [("GET", f"/v1/{kind}/{id}"), ("DELETE", f"/v1/{kind}/{id}")]
    plan = api.post("/v1/plans", json=inputs.body()).json()["id"]
    places.append(("GET", f"/v1/plans/{plan}"))
    unknown = "0" * 32
    for method, path in places:
        body = {"json": {}} if method == "PATCH" else {}
        theirs = stranger.request(method, path, **body)
        assert theirs.status_code == 404, path
        # Not to be told from an id that never was.
        never = stranger.request(
            method,
            path.replace(job, f"job_{unknown}")
            .replace(inputs.first, f"ds_{unknown}")
            .replace(plan, f"pln_{unknown}"),
            **body,
        )
        if inputs.model not in path:
            assert {**theirs.json(), "request_id": 0} == {**never.json(), "request_id": 0}
    assert stranger.head(f"/v1/jobs/{job}/artifacts/report.json").status_code == 404
    for kind in ("jobs", "datasets", "models"):
        assert stranger.get(f"/v1/{kind}").json()["data"] == []
    assert stranger.get("/v1/jobs", params={"model": inputs.model}).json()["data"] == []
    assert stranger.post("/v1/plans", json=inputs.body()).status_code == 422
    assert api.get(f"/v1/jobs/{job}").json()["state"] == "queued"
    assert api.get(f"/v1/datasets/{inputs.first}").status_code == 200


def test_ids_of_any_form_are_only_unknown(api: httpx.Client) -> None:
    for id in ("x", "job_", "JOB_" + "0" * 32, "..%2f..", "%F0%9F%92%A9", "' OR 1=1 --", "%ff"):
        for kind in ("jobs", "datasets", "models", "plans"):
            assert api.get(f"/v1/{kind}/{id}").status_code == 404, id
