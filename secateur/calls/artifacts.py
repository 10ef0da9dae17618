"""What jobs made."""

from collections.abc import Callable, Collection
from pathlib import Path

from secateur import answers, download
from secateur.calls.base import Calls
from secateur.operations import operation
from secateur.transport import Transport, path_of


class Artifacts(Calls):
    """`/v1/jobs/{id}/artifacts` and `/v1/jobs/{id}/state`."""

    @operation
    async def manifest(self, id: str) -> answers.ManifestRead:
        """A finished job's files, with sha256 and size, and the digest over all of them."""
        return await _manifest(self._transport, id)

    @operation
    async def download(
        self,
        id: str,
        folder: Path,
        *,
        only: Collection[str] | None = None,
        on_bytes: Callable[[int, int], None] | None = None,
    ) -> list[Path]:
        """Download a job's files below `folder` and check each; what is there and correct stays.

        only: globs of the manifest's paths, such as `model/*`, in which `*` is any text, slashes too; by default
        every file. A broken download goes on where it ended, also in a later call. on_bytes(done, total) tells
        the progress.
        Raises UnsafePath before the first byte, DownloadError, also for a glob that no file matches.
        """
        manifest = await _manifest(self._transport, id)
        return await download.download_all(self._transport, id, manifest, folder, only, on_bytes)

    @operation
    async def export_state(self, id: str, target: Path) -> None:
        """Write a job's final state (dense model's digest, lineage, spec, statistics, the blocks' pruned weights)
        into one tar file, to keep or to continue with the engine alone; the service does not take it in again.

        Raises DownloadError; what is there is replaced by a whole file only.
        """
        await download.fetch_made(self._transport, path_of("jobs", id, "state"), {}, target)

    @operation
    async def verify(self, id: str, folder: Path) -> list[str]:
        """What is wrong with a downloaded folder, one line a file; empty when all is well."""
        manifest = await _manifest(self._transport, id)
        return await download.verify_folder(self._transport.wire, manifest, folder)

    @operation
    async def verify_stored(self, id: str) -> answers.VerificationRead:
        """Let the server hash the stored files again: `ok`, and for each of `files` its `path` and `ok`.

        Minutes for a large model.
        """
        path = path_of("jobs", id, "artifacts", "verify")
        return await self._transport.call("POST", path, repeatable=True, slow=True)


async def _manifest(transport: Transport, id: str) -> answers.ManifestRead:
    return await transport.call("GET", path_of("jobs", id, "artifacts"))
