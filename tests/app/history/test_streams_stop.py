"""Streams over a restart of the server.

Slow: a real process gets a real signal; only that shows what becomes of open streams.
"""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from sqlalchemy.orm import Session

from tests.app.conftest import Inputs, MakeKey, client_of
from tests.app.history.test_feeds import Message, end, note, stream
from tests.app.test_stop import api_process

pytestmark = pytest.mark.slow
STREAMS = 20
STOP_SECONDS = 5


def test_streams_end_whole_when_the_server_stops_and_go_on_with_the_next_one(
    environment: dict[str, str], tmp_path: Path, make_key: MakeKey, inputs: Inputs, session: Session
) -> None:
    own = {**os.environ, **environment, "SECATEUR_STOP_SECONDS": str(STOP_SECONDS)}
    key, opened = make_key(), Barrier(STREAMS + 1)

    def follow(url: str, job: str, number: int) -> tuple[list[Message], list[str]]:
        kind = ("events", "logs")[number % 2]
        with client_of(url, key) as mine, stream(mine, f"/v1/jobs/{job}/{kind}") as (response, messages):
            found = [next(messages)]
            assert response.status_code == 200
            opened.wait(60)
            found += messages
        return [each for each in found if isinstance(each, Message)], [
            each for each in found if isinstance(each, str)
        ]

    with api_process(own, tmp_path) as api, client_of(api.url, key) as caller, ThreadPoolExecutor(STREAMS) as pool:
        job = caller.post("/v1/jobs", json=inputs.body()).json()["id"]
        following = [pool.submit(follow, api.url, job, number) for number in range(STREAMS)]
        opened.wait(60)
        note(session, job, 1)
        asked = time.monotonic()
        api.process.send_signal(signal.SIGTERM)
        ends = [each.result(60) for each in following]
        assert time.monotonic() - asked < STOP_SECONDS
        assert api.process.wait(STOP_SECONDS + 10) == -signal.SIGTERM
        log = api.log.read_text()
    pauses = {lines[-1] for _, lines in ends}
    assert all(lines[-2].startswith(": the server stops") for _, lines in ends)
    assert len(pauses) > 1, "they do not come back all at once"
    assert "Traceback" not in log
    assert "without completing response" not in log

    note(session, job, 2)
    end(session, job)
    with api_process(own, tmp_path) as api, client_of(api.url, key) as caller:
        for messages, _ in ends[::2]:
            with stream(caller, f"/v1/jobs/{job}/events", messages[-1].id) as (_, more):
                found = messages + [each for each in more if isinstance(each, Message)]
            assert [each.id for each in found] == ["1", "2", "3", "4"]
