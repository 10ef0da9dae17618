"""Logs as JSON lines on standard error, ours and the libraries' alike."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import structlog

_SECRET: Final = re.compile(
    r"sctr_[A-Za-z0-9]{8,}|(?<=://)[^/@\s]+@|(?i:bearer\s+)\S+|(?<=[?&])X-Amz-[A-Za-z-]+=[^&\s\"]+"
)


class _Formatter(structlog.stdlib.ProcessorFormatter):
    """Marks the handler as ours."""


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
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(renderer)
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
