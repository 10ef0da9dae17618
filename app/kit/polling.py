"""Long polls: a caller waits for news, and holds neither a thread nor a connection to the database meanwhile."""

import asyncio
import time
from collections.abc import Callable
from typing import Final, TypeVar

from fastapi import Request
from starlette.concurrency import run_in_threadpool

MAX_WAIT: Final = 60.0
LOOK_SECONDS: Final = 0.5
T = TypeVar("T")


async def poll(request: Request, seconds: float, look: Callable[[], tuple[T, bool]]) -> T:
    """What `look` finds once it says that this is what the caller waits for, or as it is when the time is over.

    seconds: at most MAX_WAIT of them. A caller who has gone is not waited for.
    """
    deadline = time.monotonic() + min(seconds, MAX_WAIT)
    while True:
        found, settled = await run_in_threadpool(look)
        left = deadline - time.monotonic()
        if settled or left <= 0 or await request.is_disconnected():
            return found
        await asyncio.sleep(min(LOOK_SECONDS, left))
