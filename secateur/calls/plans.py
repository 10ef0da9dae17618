"""Plans: what jobs would do."""

from typing import TYPE_CHECKING, Any

from secateur import answers
from secateur.calls.base import Calls
from secateur.calls.jobs import json_of
from secateur.operations import Rows, listing, operation
from secateur.transport import Json, path_of
from secateur.waiting import READY, wait_for

if TYPE_CHECKING:
    from secateur.spec.job import JobContinue, JobCreate


class Plans(Calls):
    """`/v1/plans`."""

    @operation
    async def plan(
        self, spec: "Json | JobCreate | JobContinue", *, timeout: float | None = None
    ) -> answers.PlanRead:
        """What a job would do, without the job: the plan once it is `ready`, or `failed` with its `error`.

        Raises WaitTimeout.
        """
        asked = await self._transport.create("/v1/plans", json=json_of(spec))
        path = path_of("plans", asked["id"])
        return await wait_for(self._transport, path, READY, every=0.5, timeout=timeout)

    @operation
    async def read_plan(self, id: str) -> answers.PlanRead:
        return await self._transport.call("GET", path_of("plans", id))

    @listing
    def plans(self, /, **filters: Any) -> Rows[answers.PlanLineRead]:
        """Plans of the last day, newest first. filters: those of `jobs` but label, continues and lineage."""
        return self._transport.pages("/v1/plans", filters)
