"""No body of any call keeps the event loop from the other callers, with a key or without.

A stall is what the process computes between two turns of a ticker on the server's loop; it is compared with what
it costs to read the worst body in one go, so that no speed of a machine counts.

Slow: each call with each body, because what one call bounds another may forget.
"""

import gc
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

import httpx
import pytest
from fastapi import FastAPI
from pydantic import TypeAdapter, ValidationError

from secateur.spec.job import JobRequest
from tests.app.bodies import calls_with_bodies
from tests.app.conftest import ListeningServer, MakeKey, listening

pytestmark = pytest.mark.slow

SIZES: Final = (60_000, 250_000, 2**20)
"""Bytes: below the limit of small bodies, of specs, and above both."""
TICK: Final = 0.005


def fill(size: int, begin: str, piece: Callable[[int], str], end: str) -> bytes:
    """A body of about that size."""
    pieces = [begin]
    length, number = len(begin), 0
    while length < size - 200:
        pieces.append(piece(number))
        length, number = length + len(pieces[-1]), number + 1
    return ("".join(pieces) + end).encode()


BODIES: Final[dict[str, Callable[[int], bytes]]] = {
    "unknown fields": lambda size: fill(size, '{"a":0', lambda n: f',"{n}":0', "}"),
    "unknown fields, deeper": lambda size: fill(size, '{"model":"m","method":{"a":0', lambda n: f',"{n}":0', "}}"),
    "empty objects": lambda size: fill(size, "[{}", lambda _: ",{}", "]"),
    "empty domains": lambda size: fill(size, '{"domains":[{}', lambda _: ",{}", "]}"),
    "overrides": lambda size: fill(
        size, '{"sparsity":{"overrides":[{}', lambda _: ',{"match":"*","target":2}', "]}}"
    ),
    "deep lists": lambda size: b"[" * (size // 2) + b"]" * (size // 2),
    "deep objects": lambda size: fill(size, '{"a":', lambda _: '{"a":', "0"),
    "a long text": lambda size: json.dumps({"model": "m" * (size - 50)}).encode(),
    "escapes": lambda size: fill(size, '{"model":"', lambda _: "\\u00e9", '"}'),
    "quotes": lambda size: fill(size, '{"model":"', lambda _: '\\"', ""),
    "a long key": lambda size: json.dumps({"m" * (size - 50): 1}).encode(),
    "a long number": lambda size: b'{"priority":' + b"9" * (size - 50) + b"}",
    "long fractions": lambda size: fill(size, "[0", lambda _: ",0." + "9" * 399, "]"),
    "one key many times": lambda size: fill(size, '{"a":0', lambda _: ',"a":0', "}"),
    "labels": lambda size: fill(size, '{"labels":{"a":"b"', lambda n: f',"k{n}":"v"', "}}"),
    "expressions": lambda size: fill(
        size, '{"sparsity":{"overrides":[{"match":"re:(a|a)*b"}', lambda _: ',{"match":"re:(a|a)*b"}', "]}}"
    ),
    "blanks": lambda size: b" " * (size - 10) + b"{}",
    "zeros": lambda size: b"\0" * size,
}


class Ticker:
    """The longest stretch of computing between two of its turns on a server's loop, in processor seconds."""

    def __init__(self, server: ListeningServer) -> None:
        self.longest = 0.0
        self._last = time.process_time()
        self._stopped = False
        self._loop = server.loop
        self._loop.call_soon_threadsafe(self._turn)

    def _turn(self) -> None:
        now = time.process_time()
        self.longest, self._last = max(self.longest, now - self._last), now
        if not self._stopped:
            self._loop.call_later(TICK, self._turn)

    def begin(self) -> None:
        """Forget what was."""
        done = threading.Event()

        def forget() -> None:
            self.longest, self._last = 0.0, time.process_time()
            done.set()

        self._loop.call_soon_threadsafe(forget)
        assert done.wait(60)

    def stop(self) -> None:
        self._stopped = True


@pytest.fixture
def ticker(application: tuple[FastAPI, str], service: str) -> Iterator[tuple[str, Ticker]]:
    """A server whose loop is watched, and its URL."""
    with listening(application[0]) as server:
        ticker = Ticker(server)
        gc.collect()
        gc.freeze()  # what the tests before have left is not looked through again
        yield server.url, ticker
        gc.unfreeze()
        ticker.stop()


def cost_in_one_go() -> float:
    """Of the worst body, read as a framework does it that knows no bounds."""
    body, adapter = BODIES["unknown fields"](2**20), TypeAdapter[object](JobRequest)
    started = time.process_time()
    with pytest.raises(ValidationError) as caught:
        adapter.validate_python(json.loads(body))
    assert len(caught.value.errors()) > 50_000
    return time.process_time() - started


@pytest.mark.parametrize("keyed", [True, False], ids=["with a key", "without a key"])
def test_no_body_of_any_call_stalls_the_others(
    keyed: bool, ticker: tuple[str, Ticker], application: tuple[FastAPI, str], make_key: MakeKey
) -> None:
    url, watch = ticker
    bound = cost_in_one_go() / 5
    headers = {"Authorization": f"Bearer {make_key()}"} if keyed else {}
    found: dict[str, float] = {}
    with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=60) as client:
        client.get("/openapi.json")
        for call in calls_with_bodies(application[0]):
            for name, make in BODIES.items():
                for size in SIZES if keyed else SIZES[-1:]:
                    body = make(size)
                    watch.begin()
                    status = client.request(
                        call.method, call.path, content=body, headers={"Content-Type": call.type}
                    ).status_code
                    live = client.get("/livez").status_code
                    assert (live, 400 <= status < 500) == (200, True), (str(call), name, status)
                    found[f"{call} {call.type} {name} {size}"] = watch.longest
    worst = max(found, key=found.__getitem__)
    assert found[worst] < bound, worst
