"""Uploads in parts that nobody finished: S3 keeps and bills their parts until somebody aborts them.

obstore cannot list them, so these two requests are made here (AWS Signature Version 4, path-style addresses).
"""

import hashlib
import hmac
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

import httpx

_SECONDS: Final = 30.0
_EMPTY: Final = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class Bucket:
    """One prefix of one bucket, with the right to write."""

    endpoint: str
    name: str
    prefix: str
    """Without slashes around it; may be empty."""
    region: str
    access_key: str
    secret_key: str

    def abort_uploads(self, before: datetime, check: Callable[[], None]) -> int:
        """Abort those that began before a moment (at most a thousand); how many. Raises httpx.HTTPError."""
        count = 0
        with httpx.Client(timeout=_SECONDS, trust_env=False) as client:
            for key, upload, begun in list(self._uploads(client)):
                check()
                if begun < before:
                    self._send(client, "DELETE", f"/{self.name}/{key}", {"uploadId": upload}, missing_ok=True)
                    count += 1
        return count

    def _uploads(self, client: httpx.Client) -> Iterator[tuple[str, str, datetime]]:
        prefix = f"{self.prefix}/" if self.prefix else ""
        text = self._send(client, "GET", f"/{self.name}", {"prefix": prefix, "uploads": ""})
        for upload in ElementTree.fromstring(text).iterfind("{*}Upload"):  # noqa: S314 - our own store's answer
            key, id, begun = (upload.findtext(f"{{*}}{name}") for name in ("Key", "UploadId", "Initiated"))
            if key and id and begun and key.startswith(prefix):
                yield key, id, datetime.fromisoformat(begun)

    def _send(
        self, client: httpx.Client, method: str, path: str, query: dict[str, str], *, missing_ok: bool = False
    ) -> str:
        encoded = "&".join(f"{quote(name, safe='')}={quote(query[name], safe='')}" for name in sorted(query))
        path = quote(path)
        headers = self._sign(method, path, encoded)
        response = client.request(method, f"{self.endpoint}{path}?{encoded}", headers=headers)
        if not (missing_ok and response.status_code == 404):
            response.raise_for_status()
        return response.text

    def _sign(self, method: str, path: str, query: str) -> dict[str, str]:
        """Headers that prove the request to be ours."""
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        scope = f"{now[:8]}/{self.region}/s3/aws4_request"
        host = urlsplit(self.endpoint).netloc
        signed = {"host": host, "x-amz-content-sha256": _EMPTY, "x-amz-date": now}
        lines = "".join(f"{name}:{value}\n" for name, value in signed.items())
        request = "\n".join([method, path, query, lines, ";".join(signed), _EMPTY])
        text = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(request.encode()).hexdigest()])
        key = f"AWS4{self.secret_key}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        credential = f"Credential={self.access_key}/{scope}, SignedHeaders={';'.join(signed)}"
        return {**signed, "authorization": f"AWS4-HMAC-SHA256 {credential}, Signature={signature}"}
