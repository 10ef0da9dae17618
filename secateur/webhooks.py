"""Webhooks, as the client's `client.webhooks` has them."""

from collections.abc import Iterator
from typing import Any

from secateur.transport import Json, Transport, path_of


class Webhooks:
    """Who is told of the project's jobs, and what was sent to them."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def add(self, url: str, **fields: Any) -> Json:
        """A new webhook, with its `secret`, which is shown only now.

        fields: events, states, labels (what is told: all when left out), description, enabled.
        """
        return self._transport.create("/v1/webhooks", json={"url": url, **fields})

    def read(self, id: str) -> Json:
        return self._transport.call("GET", path_of("webhooks", id))

    def list(self, **filters: Any) -> Iterator[Json]:
        """Webhooks, newest first."""
        return self._transport.pages("/v1/webhooks", filters)

    def change(self, id: str, **fields: Any) -> Json:
        """Change a webhook. fields: as for `add`, and url."""
        return self._transport.call("PATCH", path_of("webhooks", id), json=fields, repeatable=True)

    def delete(self, id: str) -> None:
        """Delete a webhook with its deliveries."""
        self._transport.delete(path_of("webhooks", id))

    def rotate(self, id: str, *, keep_hours: float = 24) -> Json:
        """The webhook with a new `secret`; the one before signs for `keep_hours`, too."""
        return self._transport.create(path_of("webhooks", id, "rotate"), params={"keep_hours": keep_hours})

    def test(self, id: str) -> Json:
        """Send a ping; the delivery."""
        return self._transport.create(path_of("webhooks", id, "test"))

    def deliveries(self, id: str, **filters: Any) -> Iterator[Json]:
        """What was sent, newest first. filters: state, limit (of one page)."""
        return self._transport.pages(path_of("webhooks", id, "deliveries"), filters)

    def delivery(self, id: str, delivery: str) -> Json:
        """A delivery with all its attempts."""
        return self._transport.call("GET", path_of("webhooks", id, "deliveries", delivery))

    def redeliver(self, id: str, delivery: str) -> Json:
        """Send a delivery again, as what it was."""
        return self._transport.call(
            "POST", path_of("webhooks", id, "deliveries", delivery, "redeliver"), repeatable=True
        )
