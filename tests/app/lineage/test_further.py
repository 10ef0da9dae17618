"""Further targets of a job that continues another."""

from typing import Any

import httpx
from sqlalchemy.orm import Session

from tests.app.conftest import Inputs
from tests.app.lineage.lineages import domain, publish, submit


def test_further_targets_and_their_statistics_are_each_jobs_own(
    api: httpx.Client, inputs: Inputs, session: Session
) -> None:
    parent = submit(api, inputs.body(sparsity={"target": 0.5, "further": [0.7], "further_statistics": "shared"}))
    publish(session, parent)
    body = {"continues": parent, "domains": [domain("sales", inputs.first)]}

    def asked(**sparsity: Any) -> tuple[list[float], str]:
        spec = api.post("/v1/jobs", json={**body, "sparsity": sparsity}).json()["spec"]["sparsity"]
        return spec["further"], spec["further_statistics"]

    assert asked() == ([0.7], "shared")
    assert asked(further=[0.6]) == ([0.6], "shared")
    assert asked(further_statistics="own") == ([0.7], "own")
    assert asked(further=[]) == ([], "shared")
    refused = api.post("/v1/jobs", json={**body, "sparsity": {"further": [], "further_statistics": "own"}}).json()
    assert [error["pointer"] for error in refused["errors"]] == ["/sparsity/further_statistics"]
