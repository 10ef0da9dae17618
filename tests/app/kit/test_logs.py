"""What a line of the log is; and what can be caused at any rate is logged at a bounded one."""

import json
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from structlog.contextvars import bound_contextvars

from app.kit.logs import MOST_KINDS, SHOWN, Throttle, configure_logs, formatter
from app.settings import Settings


def record(said: Any, level: int = logging.WARNING, error: BaseException | None = None) -> logging.LogRecord:
    info = (type(error), error, None) if error is not None else None
    return logging.LogRecord("somebody", level, __file__, 1, said, (), info)


REFUSED = {"event": "request", "status": 401}


@pytest.mark.parametrize(
    ("said", "level"),
    [
        ("Invalid HTTP request received.", logging.WARNING),
        ({"event": "database_error"}, logging.ERROR),
        (REFUSED, logging.INFO),
        ({"event": "request_refused"}, logging.INFO),
        ({"event": "client_gone"}, logging.INFO),
    ],
)
def test_a_complaint_is_shown_so_many_times_and_then_counted(said: Any, level: int) -> None:
    throttle = Throttle(seconds=3600)
    made = [record(dict(said) if isinstance(said, dict) else said, level) for _ in range(SHOWN + 5)]
    assert [throttle.filter(each) for each in made] == [True] * SHOWN + [False] * 5
    throttle._seconds = -1
    last = record(dict(said) if isinstance(said, dict) else said, level)
    assert throttle.filter(last)
    assert "5" in str(last.msg)


@pytest.mark.parametrize("said", [{"event": "request", "status": 200}, {**REFUSED, "project": "prj_1"}])
def test_what_a_key_holder_does_is_all_there(said: dict[str, Any]) -> None:
    throttle = Throttle(seconds=3600)
    assert all(throttle.filter(record(dict(said), logging.INFO)) for _ in range(3 * SHOWN))


def test_one_complaint_does_not_hide_another() -> None:
    throttle = Throttle(seconds=3600)
    for _ in range(2 * SHOWN):
        throttle.filter(record({"event": "store_error"}))
    assert throttle.filter(record({"event": "database_error"}))
    assert throttle.filter(record({"event": "store_error"}, error=OSError()))


def test_the_kinds_that_are_remembered_are_bounded() -> None:
    throttle = Throttle(seconds=3600)
    for number in range(3 * MOST_KINDS):
        throttle.filter(record(f"{number}"))
    assert len(throttle._seen) <= MOST_KINDS


@pytest.fixture
def written(settings: Settings, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., str]]:
    """What is logged in one form; afterwards logs are as they were."""

    def write(log: Callable[[], object], form: str = "json") -> str:
        logging.captureWarnings(False)  # another test's: pytest has put its own way to show warnings over it
        configure_logs(settings.model_copy(update={"log_format": form}))
        capsys.readouterr()
        log()
        return capsys.readouterr().err

    hooks = sys.excepthook, threading.excepthook
    yield write
    sys.excepthook, threading.excepthook = hooks
    configure_logs(settings)


def fail() -> None:
    """Logs an exception whose words are secret, as a library would."""
    try:
        raise RuntimeError("no answer of postgresql://me:hunter2@db/x")
    except RuntimeError:
        logging.getLogger("sqlalchemy.pool").exception("lost %s", "it")


def test_libraries_and_warnings_are_lines_with_the_context_s_names(written: Callable[..., str]) -> None:
    def log() -> None:
        with bound_contextvars(request_id="asked", job_id="job_1", attempt=1, fence=3, worker="w"):
            fail()
            structlog.get_logger("app.http").info("request", status=200)
            warnings.warn("old\nhabit", stacklevel=1)
            sys.excepthook(KeyError, KeyError("x"), None)

    lines = [json.loads(line) for line in written(log).splitlines()]
    names = [("sqlalchemy.pool", "error"), ("app.http", "info"), ("py.warnings", "warning"), ("app", "critical")]
    assert [(line["logger"], line["level"]) for line in lines] == names
    for line in lines:
        assert {"time", "message"} <= set(line)
        context = {name: line[name] for name in ("request_id", "job_id", "attempt", "fence", "worker")}
        assert context == {"request_id": "asked", "job_id": "job_1", "attempt": 1, "fence": 3, "worker": "w"}
    assert lines[0]["message"] == "lost it"
    assert "RuntimeError" in lines[0]["exception"]
    assert "hunter2" not in str(lines)


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_form_shows_a_secret(form: str, settings: Settings, written: Callable[..., str]) -> None:
    token = "sctr_" + "a" * 46
    signed = "https://s3.example/b/k?X-Amz-Credential=AKIA%2F1&X-Amz-Signature=abcdef&x=1"
    secret = settings.secret.get_secret_value()

    def log() -> None:
        library = logging.getLogger("library")
        library.warning("%s and %s", signed, {"headers": {"authorization": f"Bearer {token}"}})
        library.warning("the pepper is %s", secret)
        structlog.get_logger("ours").warning("asked", url=signed, deep=[{"key": token}], odd=Exception(secret))
        fail()

    said = written(log, form)
    for hidden in (token, "AKIA", "abcdef", secret, "hunter2"):
        assert hidden not in said
    assert "s3.example/b/k" in said


def test_no_text_passes_for_a_line_of_its_own(written: Callable[..., str]) -> None:
    forged = "name\r\n2026-01-01T00:00:00Z [info] done\x1b[2J"

    def log() -> None:
        structlog.get_logger("ours").warning(forged, name=forged, path="/\x1b]0;here\x07\x85\u2028")

    said = written(log, "text")
    assert not {"\x1b", "\x07", "\x85", "\u2028"} & set(said)
    assert not [line for line in said.splitlines() if line.startswith("2026-01-01")]


def test_the_form_is_the_terminal_s_unless_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    record = logging.LogRecord("library", logging.INFO, __file__, 1, "hello", (), None)
    assert json.loads(formatter(None).format(record))["message"] == "hello"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert not formatter(None).format(record).startswith("{")
    assert formatter("json").format(record).startswith("{")
