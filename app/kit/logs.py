"""Logs as JSON lines on standard error, ours and the libraries' alike."""

import logging
import re
import sys
import time
from collections.abc import MutableMapping
from typing import Any, Final, TextIO

import structlog

_SECRET: Final = re.compile(
    r"sctr_[A-Za-z0-9]{8,}|hf_[A-Za-z0-9_]{8,}|(?<=://)[^/@\s]+@|(?i:bearer\s+)\S+|(?<=[?&])X-Amz-[A-Za-z-]+=[^&\s\"]+"
)


WINDOW_SECONDS: Final = 60.0
SHOWN: Final = 30
"""Lines of one kind in a window; the others are counted."""
MOST_KINDS: Final = 1000
_CALLERS: Final = frozenset({"client_gone", "request_refused"})
"""Events that anybody can cause, at any rate."""


class Throttle(logging.Filter):
    """Lets so many complaints of one kind through; the next window's first says how many it did not show."""

    def __init__(self, seconds: float = WINDOW_SECONDS) -> None:
        super().__init__()
        self._seconds = seconds
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}
        """By kind: when its window began, and how many there were."""

    def filter(self, record: logging.LogRecord) -> bool:
        said = record.msg if isinstance(record.msg, dict) else {"event": str(record.msg)[:80]}
        if record.levelno < logging.WARNING and not _is_of_a_stranger(said):
            return True
        error = record.exc_info[0] if isinstance(record.exc_info, tuple) else None
        kind = (record.name, f"{said.get('event')} {said.get('status')} {error}")
        now = time.monotonic()
        began, count = self._seen.get(kind, (now, 0))
        if now - began > self._seconds:
            _count(record, count - SHOWN)
            began, count = now, 0
        if len(self._seen) >= MOST_KINDS:
            self._seen.clear()
        self._seen[kind] = (began, count + 1)
        return count < SHOWN


def _is_of_a_stranger(said: dict[str, Any]) -> bool:
    refused = said.get("event") == "request" and int(said.get("status") or 400) >= 400
    return said.get("event") in _CALLERS or (refused and "project" not in said)


def _count(record: logging.LogRecord, missing: int) -> None:
    if missing > 0 and isinstance(record.msg, dict):
        record.msg["not_shown"] = missing
    elif missing > 0:
        record.msg = f"{record.msg} ({missing} more were not shown)"


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """Marks the handler as ours."""


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to what standard error is at the time: whoever captures it may have replaced it since."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def configure_logs(level: str = "INFO") -> None:
    """Route structlog and the standard library through one renderer that hides keys and passwords."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer = _Formatter(
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(),
        ],
        foreign_pre_chain=shared,
    )
    handler = _StandardError()
    handler.setFormatter(renderer)
    handler.addFilter(Throttle())
    root = logging.getLogger()
    # Called again, it replaces its own handler; other people's stay.
    root.handlers[:] = [each for each in root.handlers if not isinstance(each.formatter, _Formatter)] + [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    logging.getLogger("uvicorn.access").disabled = True
    for name in ("alembic", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)


def redact(text: str) -> str:
    """Text without API keys, passwords in URLs and signatures of presigned URLs."""
    return _SECRET.sub("[hidden]", text)


def _redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = redact(value)
    return event
