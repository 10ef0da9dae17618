"""Jobs: submitted, asked for, waited for, followed."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from secateur import answers
from secateur.calls.base import Calls
from secateur.operations import Rows, listing, operation
from secateur.stream import stream_rows
from secateur.transport import Json, path_of
from secateur.waiting import FINISHED, Awaited, wait_for

if TYPE_CHECKING:
    from secateur.spec.job import JobContinue, JobCreate


class Jobs(Calls):
    """`/v1/jobs`, but what they did: see calls/history.py."""

    @operation
    async def submit(
        self, spec: "Json | JobCreate | JobContinue", *, idempotency_key: str | None = None
    ) -> answers.JobRead:
        """Start a job; with `continues` in the spec, from another job's final state.

        Sent again with the same key and spec, it returns the same job.
        """
        return await self._transport.create("/v1/jobs", key=idempotency_key, json=json_of(spec))

    @operation
    async def job(self, id: str) -> answers.JobRead:
        return await self._transport.call("GET", path_of("jobs", id))

    @operation
    async def tagged_job(self, id: str) -> tuple[answers.JobRead, str | None]:
        """A job and its ETag, for `change`."""
        found = await self._transport.look(path_of("jobs", id), held=0, etag=None)
        return found.body, found.etag

    @operation
    async def queue_place(self, id: str) -> answers.QueuePlace:
        """How many jobs are started before this one (`ahead`), and what it `waits_for`."""
        return await self._transport.call("GET", path_of("jobs", id, "queue"))

    @listing
    def jobs(self, /, **filters: Any) -> Rows[answers.JobRead]:
        """Jobs, newest first.

        filters: state, method, model, label ("k=v"), created_after, created_before, continues, lineage, limit (of
        one page).
        """
        return self._transport.pages("/v1/jobs", filters)

    @operation
    async def cancel(self, id: str) -> answers.JobRead:
        """Ask for the end of a job; harmless when it is cancelled already."""
        return await self._transport.call("POST", path_of("jobs", id, "cancel"), repeatable=True)

    @operation
    async def pause(self, id: str) -> answers.JobRead:
        """Take a job from its worker after the block it works on, or from the queue. Harmless if paused."""
        return await self._transport.call("POST", path_of("jobs", id, "pause"), repeatable=True)

    @operation
    async def resume(self, id: str) -> answers.JobRead:
        """Let a paused job go on behind its last finished block."""
        return await self._transport.call("POST", path_of("jobs", id, "resume"), repeatable=True)

    @operation
    async def retry(self, id: str) -> answers.JobRead:
        """The new job that goes on where a failed or cancelled one stopped; the same one when called again."""
        return await self._transport.create(path_of("jobs", id, "retry"))

    @operation
    async def change(self, /, id: str, *, if_match: str | None = None, **fields: Any) -> answers.JobRead:
        """Change a job. fields: labels, priority, limits ({"max_runtime": "12h", "max_pending": …}).

        if_match: the ETag that the job must still have.
        """
        headers = {"If-Match": if_match} if if_match is not None else None
        # Twice does no harm either, unless the first time has changed the ETag.
        again = if_match is None
        path = path_of("jobs", id)
        return await self._transport.call("PATCH", path, json=fields, headers=headers, repeatable=again)

    @operation
    async def delete_job(self, id: str) -> None:
        """Delete a finished job with its history and files."""
        await self._transport.delete(path_of("jobs", id))

    @operation
    async def wait(
        self,
        id: str,
        *,
        for_: Awaited = "end",
        timeout: float | None = None,
        every: float = 1.0,
        on_update: Callable[[answers.JobRead], None] | None = None,
    ) -> answers.JobRead:
        """The job once it is finished, however that is. Raises WaitTimeout, after `timeout` seconds also of a
        server that is away.

        for_: `state` also returns it once its state is another than when it was first looked at, `change` once
        anything of it is. The server holds each request until there is news; every: the least time between two.
        on_update is called with the job at each change, and now and then without one. A server that is away for a
        while (five minutes) is waited for.
        """
        path = path_of("jobs", id)
        return await wait_for(
            self._transport, path, FINISHED, every=every, awaited=for_, timeout=timeout, on_update=on_update
        )

    @listing
    def stream(self, id: str, after: int = 0) -> Rows[answers.EventRead]:
        """A job's events above `after` as they come, until it has ended and all were told.

        What breaks is taken up again behind the last event: none is missing, none comes twice. A server that is
        away for a while (five minutes) is waited for. Raises ProblemError, NotReachable.
        """
        return stream_rows(self._transport, path_of("jobs", id, "events"), after)

    @listing
    def stream_logs(self, id: str, after: int = 0) -> Rows[answers.LogRead]:
        """Lines that the engine prints, as `stream` has events."""
        return stream_rows(self._transport, path_of("jobs", id, "logs"), after)


def json_of(spec: "Json | JobCreate | JobContinue") -> Json:
    """As it is sent: what was not said is the server's to fill in."""
    return spec if isinstance(spec, dict) else spec.model_dump(mode="json", exclude_unset=True)
