"""Requests that a generator of the OpenAPI document makes up: no answer is a 500, or another than is documented.

Slow: what a caller could send is only found by sending a great deal of it; a seed makes each run the same.
"""

from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from tests.app.conftest import Inputs, MakeKey
from tests.app.contract import check_documented

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
CALLS = 5
"""Of each kind, valid and not, for every operation."""
LEFT_OUT = {"livez", "readyz"}


bounded = settings(
    max_examples=CALLS,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def test_no_made_up_request_gets_an_answer_that_is_not_documented(
    service: str, make_key: MakeKey, inputs: Inputs
) -> None:
    document = httpx.get(f"{service}/openapi.json", trust_env=False, timeout=60).json()
    asked: dict[str, set[int]] = {}
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        operation = found.ok()
        name = operation.definition.raw["operationId"]
        if name not in LEFT_OUT:
            asked[name] = _ask(operation, service, make_key())
    assert len(asked) > 40
    assert {status for statuses in asked.values() for status in statuses} >= {200, 403, 404, 422}


def _ask(operation: Any, url: str, key: str) -> set[int]:
    """Send requests of an operation, valid ones and others; their statuses."""
    statuses: set[int] = set()
    for mode in schemathesis.GenerationMode:

        @bounded
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case: Any) -> None:
            statuses.add(_send(case, url, key))

        send()
    return statuses


def _send(case: Any, url: str, key: str) -> int:
    """One request, whose answer must be no failure of ours and as documented."""
    for place, name in ((case.query, "wait"), (case.headers, "Accept")):  # which only take time
        if place and name in place:
            del place[name]
    answer = case.call(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=60)
    sent = f"{answer.request.method} {answer.request.url} {answer.request.body!r}: {answer.content[:500]!r}"
    assert answer.status_code < 500, sent
    headers = [(name, value) for name, values in answer.headers.items() for value in values]
    left = [(name, value) for name, value in headers if name.lower() not in ("content-encoding", "content-length")]
    request = httpx.Request(str(answer.request.method), str(answer.request.url))
    check_documented(httpx.Response(answer.status_code, headers=left, content=answer.content, request=request))
    return int(answer.status_code)
