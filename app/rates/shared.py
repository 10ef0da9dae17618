"""Sliding windows in the broker's server, for all processes of the API; while it is away, nobody waits for it."""

import asyncio
import math
import time
from typing import Any, Final

import structlog
from limits import RateLimitItemPerSecond
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.exceptions import RedisError

from app.rates.buckets import Standing
from app.rates.policies import WINDOW_SECONDS, RatePolicy

log = structlog.get_logger("app.rates")

ANSWER_SECONDS: Final = 0.05
"""A server that takes longer is treated as away."""
AWAY_SECONDS: Final = 5.0
"""For so long it is not asked again."""
KEY_PREFIX: Final = "secateur:rates"


class SharedWindows:
    """Counts calls in the broker's server; while that is away or slow, says nothing."""

    def __init__(self, broker_url: str) -> None:
        self._url = broker_url
        self._limiter: SlidingWindowCounterRateLimiter | None = None
        self._away_until = 0.0
        self._away = False

    async def take(self, name: str, policy: RatePolicy) -> Standing | None:
        """Count a call; None when the server does not say in time."""
        now = time.monotonic()
        if now < self._away_until:
            return None
        if self._away:  # one call finds out whether it is back; the others do not wait for it
            self._away_until = now + AWAY_SECONDS
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                standing = await self._ask(name, policy)
        except (RedisError, OSError, TimeoutError) as error:
            self._note_away(type(error).__name__)
            return None
        self._note_back()
        return standing

    async def close(self) -> None:
        """Give the connections back."""
        limiter, self._limiter = self._limiter, None
        if limiter is not None:
            storage: Any = limiter.storage
            await storage.bridge.storage.aclose()

    async def _ask(self, name: str, policy: RatePolicy) -> Standing:
        if self._limiter is None:
            self._limiter = SlidingWindowCounterRateLimiter(self._open())
        item = RateLimitItemPerSecond(policy.quota, WINDOW_SECONDS)
        allowed = await self._limiter.hit(item, name)
        window = await self._limiter.get_window_stats(item, name)
        reset = max(1, math.ceil(window.reset_time - time.time()))
        return Standing(allowed, max(0, window.remaining), reset)

    def _open(self) -> RedisStorage:
        return RedisStorage(
            f"async+{self._url}",
            implementation="redispy",
            key_prefix=KEY_PREFIX,
            socket_connect_timeout=ANSWER_SECONDS,
            socket_timeout=ANSWER_SECONDS,
            max_connections=50,
        )

    def _note_away(self, error: str) -> None:
        self._away_until = time.monotonic() + AWAY_SECONDS
        if not self._away:
            log.warning("rates_not_shared", error=error, detail="each process counts for itself")
        self._away = True

    def _note_back(self) -> None:
        if self._away:
            log.info("rates_shared_again")
        self._away, self._away_until = False, 0.0
