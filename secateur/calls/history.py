"""What jobs did."""

from contextlib import aclosing
from pathlib import Path
from typing import Any

from secateur import answers, download
from secateur.calls.base import Calls
from secateur.operations import Rows, listing, operation
from secateur.transport import path_of


class History(Calls):
    """`/v1/jobs/{id}/…`, for reading."""

    @listing
    def events(self, id: str, after: int = 0) -> Rows[answers.EventRead]:
        """A job's events with a number above `after`; see `stream` for those to come."""
        return self._transport.pages(path_of("jobs", id, "events"), {"after": after})

    @listing
    def logs(self, id: str, after: int = 0) -> Rows[answers.LogRead]:
        """Lines that the engine printed, with a number above `after`; see `stream_logs` for those to come."""
        return self._transport.pages(path_of("jobs", id, "logs"), {"after": after})

    @operation
    async def last_logs(self, id: str, count: int) -> list[answers.LogRead]:
        """The last lines that the engine printed, oldest first."""
        path, found = path_of("jobs", id, "logs", "tail"), []
        async with aclosing(self._transport.pages(path, {"limit": min(max(count, 1), 1000)})) as newest:
            async for line in newest:
                found.append(line)
                if len(found) == count:
                    break
        return found[::-1]

    @listing
    def attempts(self, id: str) -> Rows[answers.AttemptRead]:
        return self._transport.pages(path_of("jobs", id, "attempts"))

    @operation
    async def lineage(self, id: str) -> answers.LineageRead:
        """What a job continues (`path`), and all branches of the tree it belongs to (`jobs`)."""
        return await self._transport.call("GET", path_of("jobs", id, "lineage"))

    @listing
    def stages(self, id: str) -> Rows[answers.StageRead]:
        return self._transport.pages(path_of("jobs", id, "stages"))

    @operation
    async def evaluation(self, id: str) -> answers.EvaluationRead:
        """The matrix R (perplexity of every domain after every stage), BWT, and the protocols."""
        return await self._transport.call("GET", path_of("jobs", id, "evaluation"))

    @listing
    def matrices(self, /, id: str, **filters: Any) -> Rows[answers.MatrixRead]:
        """One record a matrix and stage. filters: as for `sensitivity`."""
        return self._transport.pages(path_of("jobs", id, "matrices"), filters)

    @listing
    def sensitivity(self, /, id: str, **filters: Any) -> Rows[answers.SensitivityRead]:
        """One summary a matrix and stage.

        filters: stage, domain, block, matrix (a name or a glob), lineage (True: also the stages of the jobs that
        this one continues), basis ("domain", the default: scores by the stage's domain alone; "accumulated": by
        all domains so far, which chose the mask).
        """
        return self._transport.pages(path_of("jobs", id, "sensitivity"), filters)

    @listing
    def block_sensitivity(self, /, id: str, **filters: Any) -> Rows[answers.BlockSensitivityRead]:
        """What of each stage's sensitivity falls to each block. filters: as for `sensitivity`."""
        return self._transport.pages(path_of("jobs", id, "sensitivity", "blocks"), filters)

    @operation
    async def export_history(self, /, id: str, target: Path, **filters: Any) -> None:
        """Write records and summaries into a Parquet file, one row a matrix and stage. filters: as for
        `sensitivity`. Raises DownloadError; what is there is replaced by a whole file only."""
        path = path_of("jobs", id, "sensitivity.parquet")
        await download.fetch_made(self._transport, path, filters, target)

    @operation
    async def compare(
        self, /, id: str, other: str, *, part: str | None = None, **filters: Any
    ) -> answers.ComparisonRead:
        """Two jobs side by side; `history.matrices.data` has all matrices.

        part: "evaluation" or "history" alone. filters: stage, other_stage, matrix.
        """
        path = path_of("jobs", id, "compare", other)
        found: answers.ComparisonRead = await self._transport.call("GET", path, params={**filters, "part": part})
        matrices = found["history"]["matrices"] if found["history"] else None
        while matrices is not None and matrices["next_cursor"] is not None:
            more = {**filters, "part": "history", "cursor": matrices["next_cursor"]}
            page = (await self._transport.call("GET", path, params=more))["history"]["matrices"]
            matrices["data"] += page["data"]
            matrices["next_cursor"] = page["next_cursor"]
        return found
