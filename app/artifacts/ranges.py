"""The Range header, for one range (RFC 9110, section 14)."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import Depends, Header, Request, Response
from starlette.responses import StreamingResponse

from app.kit.head import ONLY_HEADERS
from app.kit.problems import Problem

_SINGLE: Final = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})")


class RangeNotSatisfiable(Problem):
    status, code, title = 416, "range_not_satisfiable", "The range lies outside the file"

    def __init__(self, size: int = 0) -> None:
        super().__init__(f"The file has {size} bytes.", headers={"Content-Range": f"bytes */{size}"})


@dataclass(frozen=True)
class RangeRequest:
    """Which bytes the caller wants; with `if_range` only while that is the content's ETag."""

    request: Request
    range: Annotated[str | None, Header(description="One range of bytes.")] = None
    if_range: Annotated[str | None, Header(description="ETag for which the range is meant.")] = None

    def answer(
        self, read: Callable[[int, int], Iterator[bytes]], size: int, headers: Mapping[str, str], media_type: str
    ) -> Response:
        """The content or its range, streamed. headers: the whole content's, with its ETag. read: [start, end).

        Raises RangeNotSatisfiable.
        """
        meant = self.if_range in (None, headers["ETag"])
        wanted = parse_range(self.range if meant else None, size)
        start, end = wanted or (0, size)
        sent = {**headers, "Content-Length": str(end - start)}
        if wanted is not None:
            sent["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        if ONLY_HEADERS in self.request.scope["state"]:
            start = end
        return StreamingResponse(read(start, end), 206 if wanted is not None else 200, sent, media_type)


Range = Annotated[RangeRequest, Depends()]


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """[start, end) of a single range within `size` bytes; None for the whole file.

    Several ranges and unknown forms are ignored, as the standard allows. Raises RangeNotSatisfiable.
    """
    match = _SINGLE.fullmatch((header or "").strip().replace(" ", ""))
    if match is None or match.group(0) == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        length = min(int(last), size)
        if length == 0:
            raise RangeNotSatisfiable(size)
        return size - length, size
    start, end = int(first), min(int(last) + 1, size) if last else size
    if last and int(last) < int(first):
        return None
    if start >= size:
        raise RangeNotSatisfiable(size)
    return start, end
