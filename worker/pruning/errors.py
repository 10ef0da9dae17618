"""What can go wrong in a pruning job, and whose fault it is."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from worker.machine_errors import trouble_of
from worker.model_files.errors import IntakeError

MACHINE: Final = frozenset(
    {errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE}
)
"""Errors of the system that say nothing about a file."""


class PruningError(Exception):
    """Anything this library raises on purpose."""


class UserError(PruningError):
    """The user's input is at fault; trying again without changing it cannot help.

    code: stable, for machines. field: JSON pointer into the request, when one field is to blame.
    """

    def __init__(self, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field


class SpecError(UserError):
    """A field of the request is missing, of the wrong type or out of range."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__("invalid_spec", f"{field or '/'}: {message}", field)


class IllConditioned(PruningError):
    """No damping made a Gram matrix positive definite, or the solution was not finite."""


@contextmanager
def about(name: str) -> Iterator[None]:
    """Let an IllConditioned that is raised inside say which matrix it is about."""
    try:
        yield
    except IllConditioned as error:
        raise IllConditioned(f"{name}: {error}") from error


class Stopped(PruningError):
    """The observer asked the job to stop."""


@contextmanager
def blaming(code: str, what: str, field: str | None) -> Iterator[None]:
    """Whatever is raised inside while the user's file is read is the file's fault: UserError, with its reason.

    Loaders raise anything: each model type and tokenizer checks in its own way, and a panic of compiled code is no
    Exception. Let through are errors that are named already, orders to stop, and trouble of the machine.
    """
    try:
        yield
    except (PruningError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except IntakeError as error:
        raise UserError(code, error.message, field) from None
    except BaseException as error:
        if trouble_of(error) is not None or (isinstance(error, OSError) and error.errno in MACHINE):
            raise
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(code, f"{what}: {said}", field) from error
