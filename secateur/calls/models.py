"""Models, and their uploads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from secateur import answers, upload_model
from secateur.calls.base import Calls
from secateur.operations import Rows, listing, operation
from secateur.transport import Json, Transport, path_of
from secateur.waiting import READY, wait_for


class Models(Calls):
    """`/v1/models`."""

    @operation
    async def add_model(self, name: str, source: Json) -> answers.ModelRead:
        """Register a model: `{"type": "folder", "path": …}`, `{"type": "hub", "id": …, "revision": …}` or
        `{"type": "gguf", "path": …, "dtype": "bfloat16"}`."""
        return await _add(self._transport, name, source)

    @operation
    async def upload_model(
        self,
        folder: Path,
        *,
        name: str | None = None,
        model: str | None = None,
        on_bytes: Callable[[int, int], None] | None = None,
    ) -> answers.ModelRead:
        """Send a folder with config.json, tokenizer and safetensors files; the model, whose files are then checked
        as every model's: see `wait_for_model`.

        model: the id of an upload that was broken off, which goes on. on_bytes(done, total) tells the progress;
        what is sent again counts again.
        """
        if model is None:
            files = await upload_model.files_of(self._transport.wire, folder)
            source = {"type": "upload", "files": files}
            model = (await _add(self._transport, name or folder.resolve().name, source))["id"]
        try:
            await upload_model.send_files(self._transport, model, folder, on_bytes)
            return await _complete(self._transport, model)
        except BaseException as error:
            error.add_note(f"upload_model(folder, model={model!r}) goes on")
            raise

    @operation
    async def model_files(self, id: str) -> list[answers.UploadedFileRead]:
        """Of a model that is being uploaded: what has been received of each file."""
        found: answers.UploadedFiles = await self._transport.call("GET", path_of("models", id, "files"))
        return found["data"]

    @operation
    async def model_file(self, id: str, path: str) -> answers.UploadedFileRead:
        """The same of one file."""
        return await self._transport.call("GET", path_of("models", id, "files", path))

    @operation
    async def presign_model_file(self, id: str, path: str) -> answers.PresignedPut:
        """`url` of the object store that takes the whole file by one PUT, until `expires_at`; a ProblemError
        `presign_unavailable` where files are sent to the service itself."""
        return await self._transport.call("POST", path_of("models", id, "files", path, "presign"), repeatable=True)

    @operation
    async def complete_model(self, id: str) -> answers.ModelRead:
        """Say that all files of an upload have been sent; harmless again."""
        return await _complete(self._transport, id)

    @operation
    async def model(self, id: str) -> answers.ModelRead:
        return await self._transport.call("GET", path_of("models", id))

    @listing
    def models(self, /, **filters: Any) -> Rows[answers.ModelRead]:
        return self._transport.pages("/v1/models", filters)

    @operation
    async def wait_for_model(self, id: str, *, timeout: float | None = None) -> answers.ModelRead:
        """The model once it is ready or failed."""
        path = path_of("models", id)
        return await wait_for(self._transport, path, READY, every=0.5, hold=False, timeout=timeout)

    @operation
    async def delete_model(self, id: str) -> None:
        """Refused while any job refers to it, finished or not."""
        await self._transport.delete(path_of("models", id))


async def _add(transport: Transport, name: str, source: Json) -> answers.ModelRead:
    return await transport.create("/v1/models", json={"name": name, "source": source})


async def _complete(transport: Transport, id: str) -> answers.ModelRead:
    return await transport.create(path_of("models", id, "complete"))
