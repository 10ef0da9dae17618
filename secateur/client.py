"""The clients, a method for each call of the API (tests/secateur/test_operations.py: and the exceptions)."""

from typing import ClassVar, Self

from secateur.calls.account import Account
from secateur.calls.artifacts import Artifacts
from secateur.calls.datasets import Datasets
from secateur.calls.history import History
from secateur.calls.jobs import Jobs
from secateur.calls.models import Models
from secateur.calls.plans import Plans
from secateur.calls.projects import Projects
from secateur.calls.webhooks import Webhooks
from secateur.operations import Awaiting, Blocking
from secateur.transport import Transport
from secateur.wire import Wire


class _Connected(Jobs, History, Artifacts, Plans, Datasets, Models, Account):
    wire: ClassVar[type[Wire]]

    def __init__(self, url: str, key: str, *, timeout: float = 60, retry_seconds: float = 30) -> None:
        super().__init__(Transport(self.wire, url, key, timeout=timeout, retry_seconds=retry_seconds))

    @property
    def url(self) -> str:
        return self._transport.url


class Client(Blocking, _Connected):
    """A Secateur server, seen with one API key.

    with Client("http://127.0.0.1:8640", key) as client:
        job = client.submit(spec)
        client.wait(job["id"])
        client.download(job["id"], Path("pruned"))

    Connection errors, time-outs, 502, 503, 504 and 429 are tried again for `retry_seconds` where that is harmless;
    what makes something names its request by an Idempotency-Key, so that it always is. Methods
    raise ProblemError when the server refuses, NotReachable when it does not answer.
    """

    @property
    def projects(self) -> "BlockingProjects":
        return BlockingProjects(self._transport)

    @property
    def webhooks(self) -> "BlockingWebhooks":
        return BlockingWebhooks(self._transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient(Awaiting, _Connected):
    """The same methods, awaited; lists are asynchronous iterators.

    async with AsyncClient("http://127.0.0.1:8640", key) as client:
        job = await client.submit(spec)
        async for event in client.stream(job["id"]):
            …

    Files are read, written and hashed in threads. Whoever cancels a call leaves no open connection behind.
    Callbacks are plain functions, called on the event loop.
    """

    @property
    def projects(self) -> "AwaitingProjects":
        return AwaitingProjects(self._transport)

    @property
    def webhooks(self) -> "AwaitingWebhooks":
        return AwaitingWebhooks(self._transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class BlockingProjects(Blocking, Projects):
    """Of a Client."""


class AwaitingProjects(Awaiting, Projects):
    """Of an AsyncClient."""


class BlockingWebhooks(Blocking, Webhooks):
    """Of a Client."""


class AwaitingWebhooks(Awaiting, Webhooks):
    """Of an AsyncClient."""
