"""Webhooks, as the client's `client.webhooks` has them."""

from typing import Any

from secateur import answers
from secateur.calls.base import Calls
from secateur.operations import Rows, listing, operation
from secateur.transport import path_of


class Webhooks(Calls):
    """Who is told of the project's jobs, and what was sent to them."""

    @operation
    async def add(self, /, url: str, **fields: Any) -> answers.WebhookWithSecret:
        """A new webhook, with its `secret`, which is shown only now.

        fields: events, states, labels (what is told: all when left out), description, enabled.
        """
        return await self._transport.create("/v1/webhooks", json={"url": url, **fields})

    @operation
    async def read(self, id: str) -> answers.WebhookRead:
        return await self._transport.call("GET", path_of("webhooks", id))

    @listing
    def list(self, /, **filters: Any) -> Rows[answers.WebhookRead]:
        """Webhooks, newest first."""
        return self._transport.pages("/v1/webhooks", filters)

    @operation
    async def change(self, /, id: str, **fields: Any) -> answers.WebhookRead:
        """Change a webhook. fields: as for `add`, and url."""
        return await self._transport.call("PATCH", path_of("webhooks", id), json=fields, repeatable=True)

    @operation
    async def delete(self, id: str) -> None:
        """Delete a webhook with its deliveries."""
        await self._transport.delete(path_of("webhooks", id))

    @operation
    async def rotate(self, id: str, *, keep_hours: float = 24) -> answers.WebhookWithSecret:
        """The webhook with a new `secret`; the one before signs for `keep_hours`, too."""
        return await self._transport.create(path_of("webhooks", id, "rotate"), params={"keep_hours": keep_hours})

    @operation
    async def test(self, id: str) -> answers.DeliveryRead:
        """Send a ping; the delivery."""
        return await self._transport.create(path_of("webhooks", id, "test"))

    @listing
    def deliveries(self, /, id: str, **filters: Any) -> Rows[answers.DeliveryRead]:
        """What was sent, newest first. filters: state, limit (of one page)."""
        return self._transport.pages(path_of("webhooks", id, "deliveries"), filters)

    @operation
    async def delivery(self, id: str, delivery: str) -> answers.DeliveryWithAttempts:
        """A delivery with all its attempts."""
        return await self._transport.call("GET", path_of("webhooks", id, "deliveries", delivery))

    @operation
    async def redeliver(self, id: str, delivery: str) -> answers.DeliveryRead:
        """Send a delivery again, as what it was."""
        return await self._transport.call(
            "POST", path_of("webhooks", id, "deliveries", delivery, "redeliver"), repeatable=True
        )
