"""The middleware: whose call it is, whether it is one too many, and the headers that say so.

A key that has worked lately is counted by itself, and everything else by its address: whoever guesses keys is
stopped without a look at the database, and stops nobody who shares the address.
"""

import hashlib
import ipaddress
from collections import OrderedDict
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.auth.tokens import is_token
from app.kit.handlers import problem_response
from app.kit.problems import RateLimited
from app.rates.buckets import Buckets, Standing
from app.rates.policies import CallClass, RatePolicy, class_of, policies
from app.rates.shared import SharedWindows
from app.settings import Settings

UNCOUNTED: Final = frozenset({"/livez"})
MOST_KEYS: Final = 10_000
"""Keys that are remembered to have worked."""


class Rates:
    """What one process counts."""

    def __init__(self, settings: Settings) -> None:
        self.policies = policies(settings) if settings.rate_limits else {}
        self._shared = SharedWindows(settings.broker_url.get_secret_value())
        self._buckets = Buckets()
        self._working: OrderedDict[str, None] = OrderedDict()

    async def take(self, name: str, policy: RatePolicy) -> Standing:
        """Count one call of `name`. The process's own bucket comes first: what it refuses asks nobody."""
        own = self._buckets.take(f"{policy.name}:{name}", policy.quota)
        if not policy.shared or not own.allowed:
            return own
        return await self._shared.take(f"{policy.name}:{name}", policy) or own

    def works(self, key: str) -> bool:
        """Whether the key was accepted lately."""
        return key in self._working

    def note(self, key: str, works: bool) -> None:
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
    """Answers 429 to what is one too many, before the call's body or key is looked at."""

    def __init__(self, app: ASGIApp, rates: Rates) -> None:
        self._app = app
        self._rates = rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in UNCOUNTED or not self._rates.policies:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        key = _key(headers.get("authorization", ""))
        known = key is not None and self._rates.works(key)
        name = key if key is not None and known else _address(scope)
        kind = class_of(scope["method"], scope["path"], headers.get("content-type", ""))
        policy = self._rates.policies[kind if known else CallClass.anonymous]
        if not policy.quota:
            await self._app(scope, receive, self._noting(scope, send, key, {}))
            return
        standing = await self._rates.take(name, policy)
        shown = {
            "ratelimit-policy": policy.header,
            "ratelimit": f'"{policy.name}";r={standing.remaining};t={standing.reset}',
        }
        if standing.allowed:
            await self._app(scope, receive, self._noting(scope, send, key, shown))
            return
        problem = RateLimited(policy.quota, standing.reset)
        await problem_response(problem, scope["state"]["request_id"])(scope, receive, _showing(send, shown))

    def _noting(self, scope: Scope, send: Send, key: str | None, shown: dict[str, str]) -> Send:
        """The same, which also remembers whether the key works."""
        showing = _showing(send, shown)

        async def note(message: Message) -> None:
            if key is not None and message["type"] == "http.response.start":
                # Of an answer that came before the key was looked up nothing is learnt.
                let_in = "known" in scope["state"]
                if let_in or message["status"] == 401:
                    self._rates.note(key, let_in)
            await showing(message)

        return note


def _showing(send: Send, shown: dict[str, str]) -> Send:
    async def show(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in shown.items():
                headers[name] = value
        await send(message)

    return show


def _key(authorization: str) -> str | None:
    """A name for the key that a call carries, from which nobody learns the key; None without a well-formed one."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not is_token(token.strip()):
        return None
    return hashlib.blake2b(token.strip().encode(), digest_size=16).hexdigest()


def _address(scope: Scope) -> str:
    """The caller's address; of IPv6 the network, because one host has all of it."""
    client = scope.get("client")
    if not client:
        return "local"
    try:
        address = ipaddress.ip_address(client[0])
    except ValueError:
        return str(client[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
