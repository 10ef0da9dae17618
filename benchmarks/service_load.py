"""A lean caller in a process of its own, so that the measured server and not its load is the bottleneck.

Reads one JSON line for each measurement from standard input and answers with one line.
"""

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import uvloop


@dataclass
class Run:
    """One measurement: callers that each send a request as soon as the last one is answered."""

    requests: list[bytes]
    until: float
    milliseconds: list[float] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    sent: int = 0

    def next(self) -> bytes:
        self.sent += 1
        return self.requests[self.sent % len(self.requests)]


class Caller(asyncio.Protocol):
    """One connection that is kept alive."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._received = bytearray()
        self._length = -1
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._length < 0:
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            self._length = end + 4 + _content_length(self._received[:end])
        if len(self._received) >= self._length:
            self._answered()

    def connection_lost(self, _: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def _answered(self) -> None:
        run, now = self._run, time.perf_counter()
        run.milliseconds.append(1000 * (now - self._started))
        status = self._received[9:12].decode()
        run.statuses[status] = run.statuses.get(status, 0) + 1
        self._received.clear()
        self._length = -1
        if now < run.until:
            self._send()
        else:
            self._transport.close()

    def _send(self) -> None:
        self._started = time.perf_counter()
        self._transport.write(self._run.next())


def _content_length(head: bytearray) -> int:
    if head[9:12] == b"304":
        return 0
    at = head.lower().find(b"\r\ncontent-length:")
    return int(head[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0


async def measure(port: int, requests: list[bytes], connections: int, seconds: float) -> dict[str, Any]:
    """Latencies in milliseconds of all answers, and how many had which status."""
    loop, started = asyncio.get_running_loop(), time.perf_counter()
    run = Run(requests, started + seconds)
    callers = [await loop.create_connection(lambda: Caller(run), "127.0.0.1", port) for _ in range(connections)]
    await asyncio.gather(*(caller.ended for _, caller in callers))
    return {
        "seconds": time.perf_counter() - started,
        "milliseconds": run.milliseconds,
        "statuses": run.statuses,
    }


class Waiter(asyncio.Protocol):
    """One connection that waits: for an answer, or for an event of a stream."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._received = bytearray()
        loop = asyncio.get_running_loop()
        self.told: asyncio.Future[float] = loop.create_future()

    def connection_made(self, transport: Any) -> None:
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        is_stream = b"text/event-stream" in self._request
        if not self.told.done() and (not is_stream or b"\ndata:" in self._received):
            self.told.set_result(time.time() if self._received[9:12] in (b"200", b"304") else -1.0)

    def connection_lost(self, _: Exception | None) -> None:
        if not self.told.done():
            self.told.set_result(-1.0)


async def hold(port: int, requests: list[bytes]) -> list[float]:
    """When each was told something, by the clock; -1 where it was refused."""
    loop = asyncio.get_running_loop()
    waiters = []
    for request in requests:
        _, waiter = await loop.create_connection(partial(Waiter, request), "127.0.0.1", port)
        waiters.append(waiter)
    print(json.dumps({"held": len(waiters)}), flush=True)
    return list(await asyncio.gather(*(waiter.told for waiter in waiters)))


def main() -> None:
    """Until standard input ends."""
    for line in sys.stdin:
        asked = json.loads(line)
        requests = [text.encode() for text in asked["requests"]]
        if asked.get("hold"):
            print(json.dumps(uvloop.run(hold(asked["port"], requests))), flush=True)
            continue
        found = uvloop.run(measure(asked["port"], requests, asked["connections"], asked["seconds"]))
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
