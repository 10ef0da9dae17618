"""Headers of answers as the OpenAPI document has them: `responses={201: sends(Sent.location), **problems(…)}`."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final


class Sent(StrEnum):
    """A header that answers carry."""

    etag = "ETag"
    retry_after = "Retry-After"
    location = "Location"
    replayed = "Idempotency-Replayed"
    digest = "Repr-Digest"
    ranges = "Accept-Ranges"
    range = "Content-Range"
    disposition = "Content-Disposition"
    challenge = "WWW-Authenticate"
    allow = "Allow"
    request_id = "X-Request-Id"
    upload_offset = "Upload-Offset"
    rate_limit = "RateLimit"
    rate_policy = "RateLimit-Policy"


_TEXTS: Final[dict[Sent, str]] = {
    Sent.etag: "Names this very answer; send it as `If-None-Match`, or as `If-Match` where a call takes that.",
    Sent.retry_after: "Seconds after which it is worth asking again.",
    Sent.location: "Where the thing that was made, or is being made, can be read.",
    Sent.replayed: "`true` where this is the first answer to a call with this `Idempotency-Key`, once more.",
    Sent.digest: "The sha256 of the whole file (RFC 9530).",
    Sent.ranges: "`bytes`: a range of it may be asked for.",
    Sent.range: "Which bytes of how many these are.",
    Sent.disposition: "A name for the file.",
    Sent.challenge: "Which kind of credential is wanted (RFC 6750).",
    Sent.allow: "The methods that the address takes.",
    Sent.request_id: "Names the request in the service's log; the caller's own `X-Request-Id`, if it sent one.",
    Sent.upload_offset: "Bytes of the file that have been received; the next ones are sent from there.",
    Sent.rate_limit: "Calls that are left (`r`), and seconds until all are there again (`t`).",
    Sent.rate_policy: "How many calls (`q`) a window of so many seconds (`w`) may have.",
}
_WHOLE_NUMBERS: Final = frozenset({Sent.retry_after, Sent.upload_offset})


def sends(*headers: Sent, description: str | None = None) -> dict[str, Any]:
    """An entry of `responses=`: an answer carries these. description: of a status that is not the usual one."""
    return {
        "headers": {header.value: header_object(header) for header in headers},
        **({"description": description} if description is not None else {}),
    }


def sent_by(headers: Mapping[str, str]) -> dict[str, Any]:
    """The same of an example of the headers."""
    known = {header.lower(): header for header in Sent}
    return {known[name.lower()].value: header_object(known[name.lower()]) for name in headers}


def header_object(header: Sent) -> dict[str, Any]:
    """As OpenAPI wants it."""
    kind = "integer" if header in _WHOLE_NUMBERS else "string"
    return {"description": _TEXTS[header], "schema": {"type": kind}}
