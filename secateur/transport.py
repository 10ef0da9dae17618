"""HTTP: the key in the header, problems as exceptions, retries."""

import platform
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlsplit

import httpx

from secateur.errors import NotReachable, ProblemError, SecateurError
from secateur.retries import Retries, may_repeat, requested_pause, should_repeat

CONNECT_SECONDS: Final = 10.0
REPEATABLE: Final = {"GET", "HEAD", "PUT", "DELETE"}
Json = dict[str, Any]
Content = Callable[[], Iterator[bytes]]
"""Makes the body anew for every try."""


@dataclass(frozen=True)
class Look:
    """What a long poll has brought: the resource, or None when it is as the caller's ETag says."""

    body: Json | None
    etag: str | None
    pause: float | None
    """Seconds after which the server finds it worth asking again."""


class Transport:
    """Requests to one server with one key."""

    def __init__(self, url: str, key: str, *, timeout: float, retry_seconds: float) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SecateurError(f"{url!r} is not the URL of a server (http://host or https://host)")
        if not key or not key.isascii() or not key.isprintable():
            raise SecateurError("the API key has characters that no key has")
        self.url = url.rstrip("/")
        self.timeout = timeout
        self.retry_seconds = retry_seconds
        self._client = httpx.Client(
            base_url=self.url,
            headers={
                "Authorization": f"Bearer {key}",
                "User-Agent": f"secateur-python/{platform.python_version()}",
            },
            timeout=self._timeout(),
            # A proxy for the internet is not a way to this machine.
            trust_env=parts.hostname not in ("localhost", "127.0.0.1", "::1"),
        )

    def close(self) -> None:
        self._client.close()

    def call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        content: Content | None = None,
        repeatable: bool | None = None,
        slow: bool = False,
    ) -> Json:
        """Send a request and return the JSON object of its answer.

        repeatable: whether sending it twice does no harm; by default decided by the method. slow: the server may
        take as long as it needs.
        Raises ProblemError and NotReachable.
        """
        again = method in REPEATABLE if repeatable is None else repeatable
        timeout = httpx.Timeout(None, connect=CONNECT_SECONDS) if slow else self._timeout()

        def ask() -> httpx.Response:
            return self._client.request(
                method,
                path,
                json=json,
                params=_present(params),
                headers=headers,
                content=content() if content is not None else None,
                timeout=timeout,
            )

        return _object(self._send(ask, again))

    def create(
        self,
        path: str,
        *,
        key: str | None = None,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        content: Content | None = None,
    ) -> Json:
        """A POST that makes something, once, however often it must be sent.

        key: names the request; one of its own by default. Raises ProblemError and NotReachable.
        """
        named = {**(headers or {}), "Idempotency-Key": key or str(uuid.uuid4())}
        return self.call("POST", path, json=json, params=params, headers=named, content=content, repeatable=True)

    def put(self, path: str, headers: Mapping[str, str], content: Content) -> None:
        """Send a body by PUT, once: whoever sends parts asks first how much has arrived. Its answer has no body.

        Raises ProblemError and NotReachable.
        """
        response = self._send(
            lambda: self._client.put(path, headers=headers, content=content(), timeout=self._timeout()),
            again=False,
        )
        if response.is_error:
            raise ProblemError.of(response)

    def look(self, path: str, *, held: float, etag: str | None) -> Look:
        """A GET that the server may hold for `held` seconds: with an ETag until the resource is another, without
        one until it is finished. Raises ProblemError and NotReachable."""
        params = {"wait": f"{held:g}"} if held > 0 else None
        headers = {"If-None-Match": etag} if etag is not None else None
        timeout = self._timeout(held)
        response = self._send(
            lambda: self._client.get(path, params=params, headers=headers, timeout=timeout), again=True
        )
        body = None if response.status_code == 304 else _object(response)
        return Look(body, response.headers.get("etag"), requested_pause(response))

    def _timeout(self, held: float = 0) -> httpx.Timeout:
        return httpx.Timeout(self.timeout + held, connect=CONNECT_SECONDS)

    def _send(self, ask: Callable[[], httpx.Response], again: bool) -> httpx.Response:
        """The answer, after as many tries as there is time for. again: whether asking twice does no harm."""
        retries = Retries(self.retry_seconds)
        while True:
            try:
                response = ask()
            except httpx.TransportError as error:
                if may_repeat(error, again) and retries.pause():
                    continue
                reason = str(error) or type(error).__name__
                raise NotReachable(f"{self.url} does not answer: {reason}") from error
            if should_repeat(response, again) and retries.pause(requested_pause(response)):
                continue
            return response

    def delete(self, path: str) -> None:
        """Send a DELETE, whose answer has no body; what a repetition does not find any more is deleted."""
        tries = 0

        def ask() -> httpx.Response:
            nonlocal tries
            tries += 1
            return self._client.delete(path)

        response = self._send(ask, again=True)
        if response.is_error and not (tries > 1 and response.status_code == 404):
            raise ProblemError.of(response)

    def pages(self, path: str, params: Mapping[str, Any] | None = None) -> Iterator[Json]:
        """Every row of a list, page by page as they are consumed."""
        cursor: str | None = None
        while True:
            page = self.call("GET", path, params={**(params or {}), "cursor": cursor})
            yield from page["data"]
            cursor = page.get("next_cursor")
            if cursor is None:
                return

    @contextmanager
    def stream(
        self, path: str, headers: Mapping[str, str], params: Mapping[str, Any] | None = None
    ) -> Iterator[httpx.Response]:
        """A GET whose body is read by the caller. Follows redirects (to an object store, without our key)."""
        wanted = {"Accept-Encoding": "identity", **headers}
        with self._client.stream(
            "GET", path, headers=wanted, params=_present(params), follow_redirects=True
        ) as response:
            yield response


def _present(params: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Without the parameters that are None."""
    return {name: value for name, value in params.items() if value is not None} if params else None


def _object(response: httpx.Response) -> Json:
    if response.is_error:
        raise ProblemError.of(response)
    try:
        body = response.json()
    except ValueError:
        body = None
    if not response.is_success or not isinstance(body, dict):
        raise SecateurError(f"{response.url} does not answer like Secateur ({response.status_code})")
    return body


def path_of(*parts: str) -> str:
    """A call's address; what is in a part leads nowhere else."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)
