"""Downloading a job's files: resumed, checked, never outside the folder, through no link and into no dotfile."""

from collections.abc import Callable, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from secateur.answers import ManifestRead
from secateur.digests import tree_digest
from secateur.errors import DownloadError, ProblemError, UnsafePath
from secateur.parts import open_part, refuse_links
from secateur.retries import Retries, may_repeat, requested_pause, should_repeat
from secateur.transport import Transport
from secateur.wire import Wire

OnBytes = Callable[[int, int], None]


@dataclass(frozen=True)
class ManifestFile:
    """One file of a manifest; the path is relative, with slashes."""

    path: str
    sha256: str
    bytes: int


async def download_all(
    transport: Transport,
    job: str,
    manifest: ManifestRead,
    folder: Path,
    only: Collection[str] | None,
    on_bytes: OnBytes | None,
) -> list[Path]:
    """Files of the manifest below `folder`; see Client.download."""
    files = _chosen(manifest_files(manifest), only)
    folder.mkdir(parents=True, exist_ok=True)
    targets = [refuse_links(folder, file.path) for file in files]
    total = sum(file.bytes for file in files)
    done = 0
    for file in files:
        before = done

        def report(bytes_of_file: int, before: int = before) -> None:
            if on_bytes is not None:
                on_bytes(before + bytes_of_file, total)

        await _Download(transport, job, file, folder, report).run()
        done += file.bytes
        report(file.bytes)
    return targets


async def verify_folder(wire: Wire, manifest: ManifestRead, folder: Path) -> list[str]:
    """Compare a folder's files with the manifest; one line a difference."""
    problems = []
    for file in manifest_files(manifest):
        target = refuse_links(folder, file.path)
        if not target.is_file():
            problems.append(f"{file.path}: missing")
        elif target.stat().st_size != file.bytes:
            problems.append(f"{file.path}: has {target.stat().st_size} bytes instead of {file.bytes}")
        elif await wire.sha256(target) != file.sha256:
            problems.append(f"{file.path}: the contents differ")
    return problems


async def fetch_made(transport: Transport, path: str, params: Mapping[str, Any], target: Path) -> None:
    """A file that the server makes while it sends it: whole or not at all, and from the start after a break.

    Raises ProblemError, DownloadError.
    """
    retries = transport.retries()
    part = target.with_name(f".{target.name}.part")
    while True:
        try:
            if not await _fetch_whole(transport, path, params, part, retries):
                continue
        except httpx.TransportError as error:
            part.unlink(missing_ok=True)
            if may_repeat(error, repeatable=True) and await retries.pause():
                continue
            reason = str(error) or type(error).__name__
            raise DownloadError(f"{target.name}: the connection broke: {reason}") from error
        part.replace(target)
        return


async def _fetch_whole(
    transport: Transport, path: str, params: Mapping[str, Any], part: Path, retries: Retries
) -> bool:
    """False after a pause, when the server has asked for another try."""
    async with transport.open(path, {}, params) as response:
        if response.is_error:
            await transport.wire.read(response)
            if should_repeat(response, repeatable=True) and await retries.pause(requested_pause(response)):
                return False
            raise ProblemError.of(response)
        with open_part(part) as file:
            file.truncate()
            async with aclosing(transport.wire.pieces(response)) as pieces:
                async for piece in pieces:
                    await transport.wire.work(file.write, piece)
    return True


def manifest_files(manifest: ManifestRead) -> list[ManifestFile]:
    """The files of a manifest whose digest is right. Raises DownloadError and UnsafePath."""
    files = [ManifestFile(entry["path"], entry["sha256"], entry["bytes"]) for entry in manifest["files"]]
    for file in files:
        _check_path(file.path)
    if len({file.path for file in files}) != len(files):
        raise UnsafePath("the manifest names a file twice")
    if tree_digest((file.path, file.sha256) for file in files) != manifest["digest"]:
        raise DownloadError("the manifest's digest does not match its files")
    return files


def _chosen(files: list[ManifestFile], only: Collection[str] | None) -> list[ManifestFile]:
    """The files whose paths one of the globs matches. Raises DownloadError for a glob that matches none."""
    if only is None:
        return files
    for glob in only:
        if not any(fnmatchcase(file.path, glob) for file in files):
            raise DownloadError(f"the job has no file {glob!r}")
    return [file for file in files if any(fnmatchcase(file.path, glob) for glob in only)]


def _check_path(path: str) -> None:
    """Refuse what could mean a place outside the folder, on any system, or a file that programs read unasked."""
    bad = any(part == "" or part.startswith((".", "~")) for part in path.split("/"))
    if bad or any(sign in path for sign in "\\:\0\n\r"):
        raise UnsafePath(f"the manifest names an unsafe path: {path!r}")


class _Download:
    """One file: `.<name>.<sha256>.part` beside the target until it is whole and checked."""

    def __init__(
        self,
        transport: Transport,
        job: str,
        file: ManifestFile,
        folder: Path,
        report: Callable[[int], None],
    ) -> None:
        self.transport = transport
        self.wire = transport.wire
        self.url = f"/v1/jobs/{quote(job, safe='')}/artifacts/{quote(file.path)}"
        self.file = file
        self.folder = folder
        self.target = refuse_links(folder, file.path)
        self.report = report
        self.part = self.target.with_name(f".{self.target.name}.{file.sha256[:16]}.part")
        self.retries = transport.retries()

    async def run(self) -> None:
        if await self._is_there():
            return
        self.target.parent.mkdir(parents=True, exist_ok=True)
        refuse_links(self.folder, self.file.path)
        resumed = self.part.exists()
        await self._fetch()
        if await self.wire.sha256(self.part) != self.file.sha256:
            self.part.unlink()
            if not resumed:
                raise DownloadError(f"{self.file.path}: what arrived is not what the manifest says")
            await self._fetch()  # the piece from an earlier run was bad; once more from the start
            if await self.wire.sha256(self.part) != self.file.sha256:
                self.part.unlink()
                raise DownloadError(f"{self.file.path}: what arrived is not what the manifest says")
        self.part.replace(self.target)

    async def _is_there(self) -> bool:
        if not self.target.is_file() or self.target.stat().st_size != self.file.bytes:
            return False
        return await self.wire.sha256(self.target) == self.file.sha256

    async def _fetch(self) -> None:
        """Fill the part file to its full size, going on after breaks."""
        open_part(self.part).close()
        while (have := self.part.stat().st_size) != self.file.bytes:
            if have > self.file.bytes:
                self._empty()
                have = 0
            try:
                await self._fetch_rest(have)
            except httpx.TransportError as error:
                if self.part.stat().st_size > have:
                    self.retries.renew()
                if not may_repeat(error, repeatable=True) or not await self.retries.pause():
                    reason = str(error) or type(error).__name__
                    raise DownloadError(f"{self.file.path}: the connection broke: {reason}") from error

    async def _fetch_rest(self, have: int) -> None:
        # If-Range: the rest of this very content, otherwise the whole.
        headers = {"Range": f"bytes={have}-", "If-Range": f'"{self.file.sha256}"'} if have else {}
        async with self.transport.open(self.url, headers) as response:
            if have and response.status_code == 416:
                self._empty()
                return
            if response.is_error:
                await self.wire.read(response)
                if should_repeat(response, repeatable=True) and await self.retries.pause(
                    requested_pause(response)
                ):
                    return
                raise ProblemError.of(response)
            await self._append(response, have if response.status_code == 206 else 0)

    def _empty(self) -> None:
        with open_part(self.part) as file:
            file.truncate()

    async def _append(self, response: httpx.Response, have: int) -> None:
        with open_part(self.part) as file:
            file.seek(have)
            file.truncate()
            async with aclosing(self.wire.pieces(response)) as pieces:
                async for piece in pieces:
                    have += len(piece)
                    if have > self.file.bytes:
                        raise DownloadError(f"{self.file.path}: the server sends more than the manifest says")
                    await self.wire.work(file.write, piece)
                    self.report(have)
        if have != self.file.bytes:
            # A clean end too early is a break like any other.
            raise httpx.RemoteProtocolError("the answer ended early")
