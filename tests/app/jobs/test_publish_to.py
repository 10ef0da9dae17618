"""A place of the store is one job's at a time."""

import httpx
import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from app.tables.jobs import Job
from tests.app.conftest import Inputs


def submit(api: httpx.Client, inputs: Inputs, place: str | None) -> httpx.Response:
    return api.post("/v1/jobs", json=inputs.body(output={"publish_to": place}))


@pytest.mark.parametrize("place", ["team/llama", "team", "team/llama/inner"])
def test_a_place_that_a_job_has_is_refused_by_name(place: str, api: httpx.Client, inputs: Inputs) -> None:
    holder = submit(api, inputs, "team/llama").json()["id"]
    refused = submit(api, inputs, place)
    assert (refused.status_code, refused.json()["code"]) == (422, "input_refused")
    assert refused.json()["errors"][0]["pointer"] == "/output/publish_to"
    assert holder in refused.json()["detail"]
    for free in ("team/llama-2", "team-2", None):
        assert submit(api, inputs, free).status_code == 201


def test_a_failed_or_deleted_job_gives_its_place_back(api: httpx.Client, inputs: Inputs, session: Session) -> None:
    for end in ("failed", "deleted"):
        id = submit(api, inputs, "place").json()["id"]
        state = "failed" if end == "failed" else "succeeded"
        session.execute(update(Job).where(Job.id == id).values(state=state))
        session.commit()
        if end == "deleted":
            assert api.delete(f"/v1/jobs/{id}").status_code == 204
    assert submit(api, inputs, "place").status_code == 201


@pytest.mark.parametrize(
    "place", ["", "/etc", "../x", "a/../b", "a//b", "a/", ".hidden", "a\0b", "x" * 201, "a b", 3]
)
def test_only_a_plain_place_is_taken(place: str, api: httpx.Client, inputs: Inputs) -> None:
    refused = submit(api, inputs, place)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "/output/publish_to"
