"""What the servers have in common: a child process, a way to wait for it, a clean environment."""

import os
import sysconfig
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Self

from app.local.children import Child
from app.local.errors import StartError
from secateur.backoff import Backoff

BACKOFF: Final = Backoff(0.02, longest=0.25)
ATTEMPTS: Final = 3
"""A free port can be taken between our look and the server's bind; so often we try."""


class Server(ABC):
    """One server as a child process; as a context manager it is started and stopped."""

    child: Child

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients connect, as our settings want it."""

    @abstractmethod
    def start(self) -> None:
        """Return when it answers. Raises StartError."""

    def stop(self) -> None:
        """Return when its processes are gone."""
        self.child.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_on_free_port(child: Child, bind: Callable[[], None], answers: Callable[[], bool]) -> None:
    """Start until it answers; a child that ends at once gets another port."""
    for attempt in range(1, ATTEMPTS + 1):
        bind()
        child.start()
        try:
            _wait_until_ready(child, answers, 60)
        except BaseException as error:
            child.kill()
            if attempt == ATTEMPTS or not isinstance(error, StartError):
                raise
        else:
            return


def _wait_until_ready(child: Child, serves: Callable[[], bool], seconds: float) -> None:
    """Return when `serves()` is true; raise StartError when the child ends or the time is over."""
    deadline = time.monotonic() + seconds
    pauses = BACKOFF.pauses()
    while not serves():
        if child.wait(next(pauses)):
            raise StartError(f"{child.name} ended with code {child.exit_code} at start:\n{child.tail()}")
        if time.monotonic() > deadline:
            raise StartError(f"{child.name} did not answer within {seconds:.0f} s:\n{child.tail()}")


def package_folder(name: str) -> Path:
    """Where a wheel is installed, without importing it."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise StartError(f"the package {name} is missing; install the extra: pip install 'secateur[local]'")
    return Path(spec.origin).parent


def scripts_path() -> str:
    return os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])


def bare_environment() -> dict[str, str]:
    """No secret and no setting of ours reaches a server that does not need it."""
    kept = ("PATH", "TMPDIR", "LD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"LC_ALL": "C"}
