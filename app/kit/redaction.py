"""What no line of a log and no span may show: keys, passwords, signatures."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

HIDDEN: Final = "[hidden]"
SHORTEST: Final = 12
"""A known secret with fewer characters is hidden where its form tells it alone: it may be a part of any word."""
_FORMS: Final = (
    r"(?:sctr|hf|whsec)_[A-Za-z0-9+/=_-]{8,}",
    r"(?<=://)[^/@\s]+@",
    r"(?i:\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{12,}",
    r"(?<=[?&])(?:X-Amz-[A-Za-z-]+|AWSAccessKeyId|Signature|sig)=[^&\s\"'\\]+",
)

_secrets = re.compile("|".join(_FORMS))
_known: Final[set[str]] = set()


def hide(secrets: Iterable[str]) -> None:
    """From now on the process hides these, too, in whatever form they come. Of a URL its password is meant."""
    global _secrets
    _known.update(form for secret in secrets for form in _meant(secret) if len(form) >= SHORTEST)
    known = sorted(map(re.escape, _known), key=lambda each: (-len(each), each))
    _secrets = re.compile("|".join([*_FORMS, *known]))


def redact(text: str) -> str:
    """Text without API keys, hub tokens, webhooks' secrets, passwords in URLs and signatures of presigned URLs."""
    return _secrets.sub(HIDDEN, text)


def redacted(data: Any, redact: Callable[[str], str] = redact) -> Any:
    """A JSON value with every string in it redacted, keys of objects among them; of anything else its `repr`."""
    if isinstance(data, str):
        return redact(data)
    if isinstance(data, Mapping):
        return {redact(str(key)): redacted(value, redact) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [redacted(value, redact) for value in data]
    return data if data is None or isinstance(data, (bool, int, float)) else redact(repr(data))


def _meant(secret: str) -> set[str]:
    if "://" in secret:
        secret = urlsplit(secret).password or ""
    return {secret, quote(secret, safe=""), unquote(secret)}
