"""HTTP: the key in the header, problems as exceptions, retries."""

import math
import platform
import ssl
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any, Final
from urllib.parse import quote, urlsplit

import httpx

from secateur.errors import BadAnswer, NotReachable, ProblemError, SecateurError, json_object
from secateur.retries import Retries, may_repeat, requested_pause, should_repeat
from secateur.wire import Body, Wire

CONNECT_SECONDS: Final = 10.0
LATE: Final = 5.0
"""Seconds behind a deadline for which an answer to what was asked before is still waited for."""
REPEATABLE: Final = {"GET", "HEAD", "PUT", "DELETE"}
Json = dict[str, Any]
Answer = Mapping[str, Any]
"""Any answer, for who only shows it."""


@dataclass(frozen=True)
class Look:
    """What a long poll has brought: the resource, or None when it is as the caller's ETag says."""

    body: Any
    etag: str | None
    pause: float | None
    """Seconds after which the server finds it worth asking again."""


class Transport:
    """Requests to one server with one key."""

    def __init__(self, wire: type[Wire], url: str, key: str, *, timeout: float, retry_seconds: float) -> None:
        host = _host(url)
        if not key or not key.isascii() or not key.isprintable():
            raise SecateurError("the API key has characters that no key has")
        self.url = url.rstrip("/")
        self.timeout = timeout
        self.retry_seconds = retry_seconds
        self.wire = wire(
            base_url=self.url,
            headers={
                "Authorization": f"Bearer {key}",
                "User-Agent": f"secateur-python/{platform.python_version()}",
            },
            timeout=self._timeout(),
            verify=_trusted(),
            # A proxy for the internet is not a way to this machine.
            trust_env=host not in ("localhost", "127.0.0.1", "::1"),
        )

    async def call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        repeatable: bool | None = None,
        slow: bool = False,
    ) -> Any:
        """Send a request and return the JSON object of its answer.

        repeatable: whether sending it twice does no harm; by default decided by the method. slow: the server may
        take as long as it needs.
        Raises ProblemError, NotReachable and BadAnswer, as all calls do.
        """
        again = method in REPEATABLE if repeatable is None else repeatable
        timeout = httpx.Timeout(None, connect=CONNECT_SECONDS) if slow else self._timeout()

        def ask() -> Awaitable[httpx.Response]:
            return self.wire.send(
                method, path, json=json, params=_present(params), headers=headers, body=body, timeout=timeout
            )

        return _object(await self._send(ask, again))

    async def create(
        self,
        path: str,
        *,
        key: str | None = None,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
    ) -> Any:
        """A POST that makes something, once, however often it must be sent.

        key: names the request; one of its own by default. Raises ProblemError and NotReachable.
        """
        named = {**(headers or {}), "Idempotency-Key": key or str(uuid.uuid4())}
        return await self.call("POST", path, json=json, params=params, headers=named, body=body, repeatable=True)

    async def put(self, path: str, headers: Mapping[str, str], body: Body) -> None:
        """Send a body by PUT, once: whoever sends parts asks first how much has arrived. Its answer has no body.

        Raises ProblemError and NotReachable.
        """
        response = await self._send(
            lambda: self.wire.send("PUT", path, headers=headers, body=body, timeout=self._timeout()), again=False
        )
        _demand_success(response)

    async def look(
        self, path: str, *, held: float, etag: str | None, until: str | None = None, deadline: float | None = None
    ) -> Look:
        """A GET that the server may hold for `held` seconds: with an ETag until the resource is another, without
        one until it is finished, or until what the server is told to wait for.

        deadline: by the monotonic clock; it is held for no longer, and not asked again behind it.
        Raises ProblemError and NotReachable.
        """
        headers = {"If-None-Match": etag} if etag is not None else None

        def ask() -> Awaitable[httpx.Response]:
            left = _left(deadline)
            wait = min(held, left)
            params = _present({"wait": f"{wait:g}", "for": until}) if wait > 0 else None
            timeout = self._timeout(wait, within=left + LATE)
            return self.wire.send("GET", path, params=params, headers=headers, timeout=timeout)

        response = await self._send(ask, again=True, deadline=deadline)
        if response.status_code == 304:  # a proxy that compresses has another way to write the same tag
            return Look(None, etag, requested_pause(response))
        return Look(_object(response), response.headers.get("etag"), requested_pause(response))

    def _timeout(self, held: float = 0, within: float = math.inf) -> httpx.Timeout:
        return httpx.Timeout(min(self.timeout + held, within), connect=min(CONNECT_SECONDS, within))

    async def _send(
        self, ask: Callable[[], Awaitable[httpx.Response]], again: bool, deadline: float | None = None
    ) -> httpx.Response:
        """The answer, after as many tries as there is time for. again: whether asking twice does no harm."""
        retries = Retries(min(self.retry_seconds, _left(deadline)), self.wire.sleep)
        while True:
            try:
                response = await ask()
            except httpx.TransportError as error:
                if may_repeat(error, again) and await retries.pause():
                    continue
                raise self.not_reachable(error) from error
            if should_repeat(response, again) and await retries.pause(requested_pause(response)):
                continue
            return response

    def retries(self) -> Retries:
        """Those of one operation."""
        return Retries(self.retry_seconds, self.wire.sleep)

    def not_reachable(self, error: httpx.TransportError) -> NotReachable:
        return NotReachable(f"{self.url} does not answer: {str(error) or type(error).__name__}")

    async def delete(self, path: str) -> None:
        """Send a DELETE, whose answer has no body; what a repetition does not find any more is deleted."""
        tries = 0

        def ask() -> Awaitable[httpx.Response]:
            nonlocal tries
            tries += 1
            return self.wire.send("DELETE", path)

        response = await self._send(ask, again=True)
        if not (tries > 1 and response.status_code == 404):
            _demand_success(response)

    async def pages(self, path: str, params: Mapping[str, Any] | None = None) -> AsyncGenerator[Any, None]:
        """Every row of a list, page by page as they are consumed."""
        cursor: str | None = None
        while True:
            page = await self.call("GET", path, params={**(params or {}), "cursor": cursor})
            for row in page["data"]:
                yield row
            cursor = page.get("next_cursor")
            if cursor is None:
                return

    def open(
        self,
        path: str,
        headers: Mapping[str, str],
        params: Mapping[str, Any] | None = None,
        silence: float | None = None,
    ) -> AbstractAsyncContextManager[httpx.Response]:
        """A GET whose body is read by the caller.

        silence: seconds without a byte after which the connection counts as broken.
        """
        return self.wire.open(
            path,
            headers={"Accept-Encoding": "identity", **headers},
            params=_present(params),
            timeout=httpx.Timeout(silence or self.timeout, connect=CONNECT_SECONDS),
        )


@cache
def _trusted() -> ssl.SSLContext:
    """The machine's certificates, read once: they are by far the most of what a client costs."""
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        raise SecateurError(f"this machine's certificates cannot be read: {error}") from error


def _host(url: str) -> str:
    """The host of a server's URL. Raises SecateurError for what is none."""
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return httpx.URL(url).host
    except (httpx.InvalidURL, ValueError):
        pass
    raise SecateurError(f"{url!r} is not the URL of a server (http://host or https://host)")


def _left(deadline: float | None) -> float:
    """Seconds until then."""
    return math.inf if deadline is None else max(0.0, deadline - time.monotonic())


def _present(params: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Without the parameters that are None."""
    return {name: value for name, value in params.items() if value is not None} if params else None


def _object(response: httpx.Response) -> Json:
    _demand_success(response)
    body = json_object(response)
    if body is None:
        raise _foreign(response)
    return body


def _demand_success(response: httpx.Response) -> None:
    if response.is_error:
        raise ProblemError.of(response)
    if not response.is_success:  # a redirect says that nothing was done
        raise _foreign(response)


def _foreign(response: httpx.Response) -> BadAnswer:
    return BadAnswer(f"{response.url} does not answer like Secateur ({response.status_code})")


def path_of(*parts: str) -> str:
    """A call's address; what is in a part leads nowhere else."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)
