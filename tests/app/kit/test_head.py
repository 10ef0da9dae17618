"""HEAD works wherever GET does."""

import re

import httpx
import pytest

from tests.app.conftest import Inputs

VOLATILE = {"date", "x-request-id", "ratelimit", "transfer-encoding"}


def headers(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name not in VOLATILE}


def test_every_address_answers_head_as_get_without_content(api: httpx.Client, inputs: Inputs, job: str) -> None:
    known = {"jobs": job, "models": inputs.model, "datasets": inputs.first}
    paths = api.get("/openapi.json").json()["paths"]
    asked = ["/openapi.json", "/docs", *(path for path, operations in paths.items() if "get" in operations)]
    seen = set()
    for path in asked:
        of = path.split("/")[2] if path.count("/") > 1 else ""
        address = re.sub(r"\{\w+\}", known.get(of, "nothing"), path)
        get, head = api.get(address), api.head(address)
        assert (head.status_code, head.content) == (get.status_code, b""), address
        assert headers(head) == headers(get), address
        seen.add(get.status_code)
    assert {200, 404} <= seen
    assert len(asked) > 20


def test_a_conditional_head_says_that_nothing_has_changed(api: httpx.Client, job: str) -> None:
    tag = api.head(f"/v1/jobs/{job}").headers["etag"]
    assert api.head(f"/v1/jobs/{job}", headers={"If-None-Match": tag}).status_code == 304


def test_what_takes_no_get_takes_no_head(api: httpx.Client, job: str) -> None:
    refused = api.head(f"/v1/jobs/{job}/cancel")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert api.post(f"/v1/jobs/{job}/events").headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/methods"])
def test_a_connection_goes_on_after_a_head(api: httpx.Client, path: str) -> None:
    length = api.head(path).headers["content-length"]
    assert int(length) == len(api.get(path).content) > 0
