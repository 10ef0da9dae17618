"""The key in use, its project, and what the service can do."""

from typing import Any

from secateur import answers
from secateur.calls.base import Calls
from secateur.operations import Rows, listing, operation


class Account(Calls):
    """Calls about no single thing."""

    @operation
    async def whoami(self) -> answers.Whoami:
        """The project, scopes and expiry of the key in use."""
        return await self._transport.call("GET", "/v1/whoami")

    @operation
    async def usage(self) -> answers.UsageRead:
        """The project's quotas: what is used of each, and what the limit is."""
        return await self._transport.call("GET", "/v1/usage")

    @listing
    def audit(self, /, **filters: Any) -> Rows[answers.AuditRead]:
        """Who changed what, newest first.

        filters: project, key, action, object_id, outcome, created_after, created_before, limit (of one page).
        """
        return self._transport.pages("/v1/audit", filters)

    @operation
    async def methods(self) -> list[answers.MethodRead]:
        """All methods with their parameters."""
        return (await self._transport.call("GET", "/v1/methods"))["data"]

    @operation
    async def close(self) -> None:
        """Close the connections."""
        await self._transport.wire.close()
