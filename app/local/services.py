"""Our own processes of a local stack, and the settings they share."""

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import app
from app.local.children import Child
from app.local.gpus import worker_environments
from app.local.postgres import PostgresServer
from app.local.state import Memory, StateFolder
from app.local.valkey import ValkeyServer

METRICS: Final = "SECATEUR_METRICS_LISTEN"
CLIENT_ONLY: Final = {"SECATEUR_URL", "SECATEUR_API_KEY", "SECATEUR_STATE"}
"""Variables for the command line, which are no business of the service."""


@dataclass(frozen=True)
class Services:
    """Makes the children: their command, environment and log."""

    state: StateFolder
    environment: Mapping[str, str]

    def bootstrap(self) -> Child:
        return self._python("bootstrap", "app.local.bootstrap", str(self.state.key_file))

    def api(self, host: str, port: int) -> Child:
        where = ("--host", host, "--port", str(port))
        return self._python("api", "app.serve", *where)

    def dispatcher(self) -> Child:
        child = self._python("dispatcher", "app.dispatch")
        host, _, port = self.environment.get(METRICS, "").rpartition(":")
        if port.isdecimal() and 0 < int(port) < 65535:  # which is the API's
            child.environment = {**child.environment, METRICS: f"{host}:{int(port) + 1}"}
        return child

    def webhooks(self) -> Child:
        child = self._python("webhooks", "app.webhooks")
        # It lets what is under way end.
        child.grace = 20
        return child

    def workers(self) -> list[Child]:
        """Of jobs, one a GPU, or a single one where there are none or one; of intakes; of plans."""
        each = worker_environments(self.environment)
        names = ["worker-gpu"] if len(each) == 1 else [f"worker-gpu-{number}" for number in range(len(each))]
        jobs = [
            self._worker("gpu", number, name=name, more=more)
            for number, (name, more) in enumerate(zip(names, each, strict=True))
        ]
        return [*jobs, self._worker("cpu", at_once=2), self._worker("plan")]

    def _worker(
        self, queue: str, number: int = 0, at_once: int = 1, name: str = "", more: Mapping[str, str] | None = None
    ) -> Child:
        """One Celery worker, which takes so many jobs or tasks at once. more: environment of its own."""
        who = ("-Q", queue, "-n", f"{queue}{number}@%h", "-c", str(at_once))
        options = ("--loglevel", "INFO", "--without-gossip", "--without-mingle")
        child = self._python(name or f"worker-{queue}", "celery", "-A", "worker.celery", "worker", *who, *options)
        # With this Celery takes SIGTERM as its soft shutdown: the running job is given back at once.
        child.environment = {**child.environment, **(more or {}), "REMAP_SIGTERM": "SIGQUIT"}
        child.grace = 20
        return child

    def _python(self, name: str, module: str, *arguments: str) -> Child:
        return Child(
            name,
            [sys.executable, "-m", module, *arguments],
            self.state.logs / f"{name}.log",
            environment=self.environment,
            directory=self.state.path,
            inherit=(self.state.lock_handle,),
        )


def service_environment(
    state: StateFolder,
    memory: Memory,
    postgres: PostgresServer,
    valkey: ValkeyServer,
    model_roots: Iterable[Path],
    extra: Mapping[str, str],
) -> dict[str, str]:
    """The caller's environment with our settings over it; other SECATEUR_ variables, such as DEVICE, pass."""
    # A log that somebody reads in a folder; whoever collects it asks for JSON.
    return (
        {"SECATEUR_LOG_FORMAT": "text"}
        | python_environment()
        | {
            "SECATEUR_DATABASE_URL": postgres.url,
            "SECATEUR_BROKER_URL": valkey.url,
            "SECATEUR_SECRET": memory.secret,
            "SECATEUR_STORE_URL": (state.path / "store").as_uri(),
            "SECATEUR_MODEL_ROOTS": os.pathsep.join(map(str, (state.models, *model_roots))),
            "SECATEUR_WORK_DIR": str(state.path / "work"),
            **extra,
        }
    )


def python_environment() -> dict[str, str]:
    """The caller's environment, in which a child finds this very code from any folder."""
    inherited = {name: value for name, value in os.environ.items() if name not in CLIENT_ONLY}
    source = str(Path(app.__file__).parent.parent)
    path = os.pathsep.join(part for part in (source, os.environ.get("PYTHONPATH")) if part)
    return inherited | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
