"""Datasets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from secateur import answers, upload
from secateur.calls.base import Calls
from secateur.operations import Rows, listing, operation
from secateur.transport import path_of
from secateur.waiting import READY, wait_for


class Datasets(Calls):
    """`/v1/datasets`."""

    @operation
    async def upload_dataset(
        self,
        path: Path,
        *,
        name: str | None = None,
        format: str | None = None,
        text_field: str | None = None,
        on_bytes: Callable[[int, int], None] | None = None,
    ) -> answers.DatasetRead:
        """Send a file, streamed. A txt or jsonl is ready at once, others are `pending`: see `wait_for_dataset`.

        format: txt, jsonl, csv or parquet, with .gz or .zst behind it when it is packed; by default as the file's
        name says. text_field: the column of the text or of the messages; by default text, messages or
        conversations. on_bytes(done, total) tells the progress; what is sent again counts again.
        """
        return await upload.upload_dataset(self._transport, path, name, format, text_field, on_bytes)

    @operation
    async def add_hub_dataset(self, /, name: str, **hub: Any) -> answers.DatasetRead:
        """Refer to a dataset on a hub. hub: id, config, split, revision, text_field."""
        return await self._transport.create("/v1/datasets", json={"name": name, "hub": hub})

    @operation
    async def dataset(self, id: str) -> answers.DatasetRead:
        return await self._transport.call("GET", path_of("datasets", id))

    @listing
    def datasets(self, /, **filters: Any) -> Rows[answers.DatasetRead]:
        return self._transport.pages("/v1/datasets", filters)

    @operation
    async def wait_for_dataset(self, id: str, *, timeout: float | None = None) -> answers.DatasetRead:
        """The dataset once it is ready or failed."""
        path = path_of("datasets", id)
        return await wait_for(self._transport, path, READY, every=0.5, hold=False, timeout=timeout)

    @operation
    async def delete_dataset(self, id: str) -> None:
        """Refused while an unfinished job needs it."""
        await self._transport.delete(path_of("datasets", id))
