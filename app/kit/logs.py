"""The log on standard error, ours and the libraries' alike: a JSON object a line, or text for people.

Every line has `time`, `level`, `logger` and `message`, and what is bound to the context (`structlog.contextvars`):
`request_id`, `project`, `key`, `job_id`, `attempt`, `fence`, `worker`, `task_id`, `delivery`.
"""

import logging
import re
import sys
import threading
import time
from types import TracebackType
from typing import Any, Final, TextIO

import structlog
from opentelemetry import trace
from structlog.typing import EventDict, Processor

from app.kit.redaction import hide, redacted
from app.settings import LogFormat, Settings

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


def configure_logs(settings: Settings, level: str | int = "INFO") -> None:
    """Route structlog, the standard library, warnings and what nobody catches through one renderer.

    The settings' secrets are hidden from now on.
    """
    hide(settings.secrets())
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = _StandardError()
    handler.setFormatter(formatter(settings.log_format))
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
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread


def formatter(form: LogFormat | None) -> logging.Formatter:
    """Of lines in that form; None: text where standard error is a terminal, JSON anywhere else."""
    terminal = sys.stderr.isatty()
    if form == "json" or (form is None and not terminal):
        last: list[Processor] = [structlog.processors.JSONRenderer()]
    else:
        last = [_indent, structlog.dev.ConsoleRenderer(colors=terminal, event_key="message", timestamp_key="time")]
    ours: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta, _finish, *last]
    return _Formatter(processors=ours, foreign_pre_chain=_SHARED)


def _add_trace(_: Any, __: str, event: EventDict) -> EventDict:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"], event["span_id"] = f"{context.trace_id:032x}", f"{context.span_id:016x}"
    return event


_SHARED: Final[list[Processor]] = [
    structlog.contextvars.merge_contextvars,
    _add_trace,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    structlog.processors.format_exc_info,
]


def _finish(_: Any, __: str, event: EventDict) -> EventDict:
    """Without secrets, and first what every line has."""
    first = {"time": event.pop("time"), "level": event.pop("level"), "logger": event.pop("logger")}
    return redacted({**first, "message": event.pop("event"), **event})  # type: ignore[no-any-return]


_CONTROL: Final = re.compile(r"[^\n\t\x20-\x7e\xa0-\u2027\u202a-\U0010ffff]")


def _indent(_: Any, __: str, event: EventDict) -> EventDict:
    """So that no text of a stranger's can pass for a line of its own, or speak to a terminal."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = _CONTROL.sub("\ufffd", value)
    for name in ("message", "exception"):
        if name in event:
            event[name] = str(event[name]).replace("\n", "\n    ")
    return event


def _uncaught(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    """What ends a process or a thread; an interrupt from the keyboard is no error."""
    if not issubclass(kind, KeyboardInterrupt):
        logging.getLogger("app").critical("uncaught", exc_info=(kind, error, where))


def _uncaught_in_thread(given: threading.ExceptHookArgs) -> None:
    if given.exc_value is not None:
        _uncaught(given.exc_type, given.exc_value, given.exc_traceback)
