"""The middleware: whose call it is, whether it is one too many, and the headers that say so.

A key that has worked lately is counted by itself, and everything else by its address: whoever guesses keys is
stopped without a look at the database, and stops nobody at the address whose key has worked here lately.
"""

import hashlib
from collections import OrderedDict
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.auth.tokens import is_token
from app.kit.addresses import network_of
from app.kit.handlers import problem_response
from app.kit.problems import RateLimited
from app.rates.buckets import Buckets, Standing
from app.rates.policies import CallClass, RatePolicy, class_of, policies
from app.rates.shared import SharedWindows
from app.settings import Settings

UNCOUNTED: Final = frozenset({"/livez"})
_BEARER: Final = b"bearer "
MOST_KEYS: Final = 10_000
"""Keys that are remembered to have worked."""


class Rates:
    """What one process counts."""

    def __init__(self, settings: Settings) -> None:
        self.policies = policies(settings) if settings.rate_limits else {}
        self._shared = SharedWindows(settings.broker_url.get_secret_value())
        self._buckets = Buckets()
        self._working: OrderedDict[bytes, None] = OrderedDict()

    async def take(self, caller: bytes, policy: RatePolicy) -> Standing:
        """Count one call. The process's own bucket comes first: what it refuses asks nobody."""
        own = self._buckets.take((policy.name, caller), policy.quota)
        if not policy.shared or not own.allowed:
            return own
        return await self._shared.take(f"{policy.name}:{caller.hex()}", policy) or own

    def works(self, key: bytes) -> bool:
        """Whether the key was accepted lately."""
        return key in self._working

    def note(self, key: bytes, works: bool) -> None:
        """Whether a call with the key was let in."""
        if not works:
            self._working.pop(key, None)
            return
        self._working[key] = None
        self._working.move_to_end(key)
        if len(self._working) > MOST_KEYS:
            self._working.popitem(last=False)

    async def close(self) -> None:
        await self._shared.close()


class RateLimits:
    """Answers 429 to what is one too many, before the call's body or key is looked at.

    It is passed by every poll, so it looks at the raw headers and keeps to what it needs.
    """

    def __init__(self, app: ASGIApp, rates: Rates) -> None:
        self._app = app
        self._rates = rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in UNCOUNTED or not self._rates.policies:
            await self._app(scope, receive, send)
            return
        authorization, content_type = _told(scope)
        key = _key(authorization)
        if key is not None and self._rates.works(key):
            caller, kind = key, class_of(scope["method"], content_type)
        else:
            caller, kind = network_of(scope.get("client")).encode(), CallClass.anonymous
            key = key if is_token(authorization[len(_BEARER) :].decode("latin-1").strip()) else None
        policy = self._rates.policies[kind]
        if not policy.quota:
            await self._app(scope, receive, self._answering(scope, send, key, []))
            return
        standing = await self._rates.take(caller, policy)
        left = f'"{kind}";r={standing.remaining};t={standing.reset}'
        shown = [(b"ratelimit-policy", policy.header), (b"ratelimit", left.encode())]
        if standing.allowed:
            await self._app(scope, receive, self._answering(scope, send, key, shown))
            return
        problem = problem_response(RateLimited(policy.quota, standing.reset), scope["state"]["request_id"])
        await problem(scope, receive, self._answering(scope, send, None, shown))

    def _answering(self, scope: Scope, send: Send, key: bytes | None, shown: list[tuple[bytes, bytes]]) -> Send:
        """`send` with these headers, which also remembers whether the key works."""

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *shown]
                # Of an answer that came before the key was looked up nothing is learnt.
                let_in = "known" in scope["state"]
                if key is not None and (let_in or message["status"] == 401):
                    self._rates.note(key, let_in)
            await send(message)

        return answer


def _told(scope: Scope) -> tuple[bytes, bytes]:
    """The call's `Authorization` and `Content-Type`."""
    authorization = content_type = b""
    for name, value in scope["headers"]:
        if name == b"authorization":
            authorization = value
        elif name == b"content-type":
            content_type = value
    return authorization, content_type


def _key(authorization: bytes) -> bytes | None:
    """A name for the key that a call carries, from which nobody learns the key; None without one."""
    if authorization[: len(_BEARER)].lower() != _BEARER:
        return None
    return hashlib.blake2b(authorization[len(_BEARER) :].strip(), digest_size=16).digest()
