"""Many who wait, and what that costs whoever does not."""

import json
import os
import time
from typing import Any

import psutil
import psycopg

SECONDS = 4.0
"""Of each measurement of another caller."""


def held(service: Any, load: Any, polls: int, streams: int) -> str:
    """How soon a change is seen by all who wait for it, and another caller's p95 before and meanwhile."""
    with service.client() as client:
        ids = [client.post("/v1/jobs", json=service.body()).json()["id"] for _ in range(50)]
        tags = {id: client.get(f"/v1/jobs/{id}").headers["etag"] for id in ids}
        last = client.get(f"/v1/jobs/{ids[0]}/events").json()["data"][-1]["seq"]
    waiting = [
        service.request("GET", f"/v1/jobs/{ids[n % 50]}?wait=60&for=change", If_None_Match=tags[ids[n % 50]])
        for n in range(polls)
    ]
    waiting += [
        service.request("GET", f"/v1/jobs/{ids[n % 50]}/events?after={last}", Accept="text/event-stream")
        for n in range(streams)
    ]
    other = [service.request("GET", f"/v1/jobs/{id}", If_None_Match=tag) for id, tag in tags.items()]
    process = psutil.Process(service.process.pid)
    with load() as waiters, load() as caller:
        caller.run(service.port, other, 2, 1.0)
        before = caller.run(service.port, other, 2, SECONDS)
        bytes_before = process.memory_info().rss
        waiters.hold(service.port, waiting)
        wait_until_settled(process)
        bytes_held = process.memory_info().rss - bytes_before
        meanwhile = caller.run(service.port, other, 2, SECONDS)
        changed = change(ids)
        told = waiters.read()
    late = [moment - changed for moment in told if moment > 0]
    lines = {
        "calls that wait": f"{polls} polls, {streams} streams; {told.count(-1.0)} were refused",
        "a change is seen after (all of them)": f"{max(late):.2f} s at the most, {min(late):.2f} s at the least",
        "memory a connection": f"{bytes_held / max(1, polls + streams) / 1024:.0f} KiB",
        "another caller's p95": f"{p95(before):.1f} ms before, {p95(meanwhile):.1f} ms meanwhile:"
        f" {p95(meanwhile) / p95(before):.2f} times",
    }
    return "\n".join(f"{name}: {value}" for name, value in lines.items())


def wait_until_settled(process: psutil.Process) -> None:
    """Until the API has taken all of them in, and rests."""
    while process.cpu_percent(2.0) > 6:
        pass


def p95(found: dict[str, Any]) -> float:
    times = sorted(found["milliseconds"])
    return float(times[int(0.95 * len(times))])


def change(ids: list[str]) -> float:
    """An event in each job by one transaction; when it was committed."""
    with psycopg.connect(os.environ["SECATEUR_DATABASE_URL"].replace("+psycopg", "")) as connection:
        connection.execute(
            "WITH told AS (UPDATE jobs SET version = version + 1, last_event = last_event + 1 WHERE id = ANY(%s)"
            " RETURNING id, last_event) INSERT INTO job_events (job_id, seq, type, data)"
            " SELECT id, last_event, 'note', %s::jsonb FROM told",
            (ids, json.dumps({"level": "info", "message": "measured"})),
        )
    return time.time()
