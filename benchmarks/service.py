"""The service under load, as ratios of one run: `python -m benchmarks.service`.

Real servers, each in a process of its own: PostgreSQL, Valkey, the API and its callers. The measure of every call
is a bare FastAPI route that does one `SELECT 1` through the same pool in the same process, called in turn.
"""

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any

import httpx
import psutil

from app.auth.scopes import ORDINARY
from app.local.ports import LOOPBACK, free_ports
from app.local.servers import PostgresServer, ValkeyServer
from app.local.services import python_environment
from benchmarks.service_pages import page_buffers
from benchmarks.service_waiting import held

ROOT = Path(__file__).parents[1]
BARE = "the bare route"
"""What everything is compared with."""
GOALS = {
    "GET /v1/jobs/{id}, 304": 0.6,
    "GET /v1/jobs/{id}, 200": 0.45,
    "POST /v1/jobs": 0.3,
    "GET /v1/jobs, a page of 50": 0.25,
    "GET /v1/methods": 0.6,
}


@dataclass
class Service:
    """A running service with one project's key, model, text and jobs."""

    port: int
    key: str
    database: str
    process: "subprocess.Popen[bytes]"
    postgres: int
    """The database server's process id."""
    model: str
    dataset: str

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def processor_seconds(self) -> tuple[float, float]:
        """What the API's process and the database's have used."""
        backends = psutil.Process(self.postgres).children(recursive=True)
        return _used(psutil.Process(self.process.pid)), sum(_used(each) for each in backends)

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.key}"}, trust_env=False)

    def body(self) -> dict[str, Any]:
        """A job over two domains."""
        domains = [
            {"name": name, "dataset": self.dataset, "evaluation": self.dataset} for name in ("support", "billing")
        ]
        method = {"name": "copal", "weight_update": "admm"}
        return {"model": self.model, "method": method, "sparsity": {"target": 0.5}, "domains": domains}

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> str:
        """The text of a request as it is sent."""
        content = "" if body is None else json.dumps(body)
        lines = [f"{method} {path} HTTP/1.1", "Host: api", f"Authorization: Bearer {self.key}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if content:
            lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
        return "\r\n".join(lines) + "\r\n\r\n" + content


@dataclass
class Measured:
    """All rounds of one call."""

    milliseconds: list[float] = field(default_factory=list)
    seconds: float = 0.0
    statuses: dict[str, int] = field(default_factory=dict)
    api_seconds: float = 0.0
    database_seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.milliseconds) / self.seconds

    def percentiles(self) -> tuple[float, float, float]:
        """p50, p95, p99 in milliseconds."""
        cuts = quantiles(self.milliseconds, n=100)
        return cuts[49], cuts[94], cuts[98]

    def processor(self) -> tuple[float, float]:
        """Milliseconds of a processor that one call takes: in the API, in the database."""
        count = len(self.milliseconds)
        return 1000 * self.api_seconds / count, 1000 * self.database_seconds / count

    def add(self, found: dict[str, Any]) -> None:
        self.milliseconds += found["milliseconds"]
        self.seconds += found["seconds"]
        for status, count in found["statuses"].items():
            self.statuses[status] = self.statuses.get(status, 0) + count


def _used(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


class Load:
    """The callers' process."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "benchmarks.service_load"]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> "Load":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def _ask(self, **asked: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        self._process.stdin.flush()
        return self.read()

    def read(self) -> Any:
        """The next line of its answer."""
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def hold(self, port: int, requests: list[str]) -> None:
        """Return when all of them are connected; `read` then says when each was told something."""
        self._ask(hold=True, port=port, requests=requests)

    def run(self, port: int, requests: list[str], connections: int, seconds: float) -> dict[str, Any]:
        """What `service_load.measure` finds."""
        found: dict[str, Any] = self._ask(port=port, requests=requests, connections=connections, seconds=seconds)
        return found


@contextmanager
def running(folder: Path) -> Iterator[Service]:
    """The service with a ready model and text."""
    with ExitStack() as stack:
        postgres = stack.enter_context(PostgresServer(folder / "postgres", password=secrets.token_hex(16)))
        valkey = stack.enter_context(ValkeyServer(folder / "valkey", password=secrets.token_hex(16)))
        os.environ |= {
            "SECATEUR_DATABASE_URL": postgres.create_database("service"),
            "SECATEUR_BROKER_URL": valkey.url,
            "SECATEUR_SECRET": secrets.token_hex(32),
            "SECATEUR_STORE_URL": (folder / "store").as_uri(),
            "SECATEUR_WORK_DIR": str(folder / "work"),
            # What is measured is what a call costs, not how many of them one key may make.
            "SECATEUR_RATE_LIMITS": "false",
            "SECATEUR_QUOTA_QUEUED_JOBS": "",
        }
        key, model, dataset = prepare()
        (port,) = free_ports()
        command = [sys.executable, "-m", "benchmarks.service_server", str(port)]
        with (folder / "api.log").open("wb") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=python_environment(), stdout=log, stderr=log)
        stack.callback(process.wait)
        stack.callback(process.kill)
        database = os.environ["SECATEUR_DATABASE_URL"]
        service = Service(port, key, database, process, postgres.child.pid or 0, model, dataset)
        wait_until_ready(service)
        yield service


def prepare() -> tuple[str, str, str]:
    """A key, a ready model and a ready text, whose files nobody will read."""
    from app.auth.repository import ensure_project
    from app.auth.service import create_key
    from app.db.engine import transaction
    from app.db.migrate import upgrade
    from app.tables.datasets import Dataset
    from app.tables.models import Model

    upgrade(os.environ["SECATEUR_DATABASE_URL"])
    with transaction() as session:
        key = create_key(session, "load", "load", ORDINARY).text
        project = ensure_project(session, "load").id
        session.add(Model(id="mdl_load", project_id=project, name="load", state="ready", source={}))
        session.add(
            Dataset(id="ds_load", project_id=project, name="load", state="ready", source="upload", format="txt")
        )
    return key, "mdl_load", "ds_load"


def wait_until_ready(service: Service) -> None:
    deadline = time.monotonic() + 60
    with service.client() as client:
        while time.monotonic() < deadline:
            try:
                if client.get("/readyz").is_success:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
    raise SystemExit("the API does not start")


def calls(service: Service, jobs: int) -> dict[str, list[str]]:
    """The requests of each call, over so many jobs."""
    with service.client() as client:
        ids = [client.post("/v1/jobs", json=service.body()).json()["id"] for _ in range(jobs)]
        tags = {id: client.get(f"/v1/jobs/{id}").headers["etag"] for id in ids}
    return {
        BARE: [service.request("GET", "/bare")],
        "GET /v1/jobs/{id}, 304": [
            service.request("GET", f"/v1/jobs/{id}", If_None_Match=tag) for id, tag in tags.items()
        ],
        "GET /v1/jobs/{id}, 200": [service.request("GET", f"/v1/jobs/{id}") for id in ids],
        "POST /v1/jobs": [service.request("POST", "/v1/jobs", service.body())],
        "GET /v1/jobs, a page of 50": [service.request("GET", "/v1/jobs?limit=50")],
        "GET /v1/methods": [service.request("GET", "/v1/methods")],
    }


def ratios(service: Service, rounds: int, seconds: float, connections: int) -> dict[str, Measured]:
    """Each call in turn with the bare route, so that what else the machine does meets both."""
    asked = calls(service, 200)
    found = {name: Measured() for name in asked}
    with Load() as load:
        for name in asked:
            load.run(service.port, asked[name], connections, 0.3)
        for _ in range(rounds):
            for name in asked:
                before = service.processor_seconds()
                found[name].add(load.run(service.port, asked[name], connections, seconds))
                after = service.processor_seconds()
                found[name].api_seconds += after[0] - before[0]
                found[name].database_seconds += after[1] - before[1]
    return found


def table(found: dict[str, Measured]) -> str:
    """As Markdown."""
    titles = ("call", "ratio", "goal", "a second", "p50", "p95", "p99", "API", "database")
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    bare = found[BARE].rate
    for name, measured in found.items():
        p50, p95, p99 = measured.percentiles()
        goal = GOALS.get(name, "")
        shown = (
            f"{measured.rate / bare:.2f}",
            goal,
            f"{measured.rate:.0f}",
            f"{p50:.1f}",
            f"{p95:.1f}",
            f"{p99:.1f}",
            *(f"{each:.2f}" for each in measured.processor()),
        )
        lines.append(f"| {name} | {' | '.join(map(str, shown))} |")
    return "\n".join(lines)


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service", description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each call in each round")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--polls", type=int, default=1000, help="held at once")
    parser.add_argument("--streams", type=int, default=200, help="open at once")
    parser.add_argument("--jobs", type=int, default=1_000_000, help="of the large table; 0 leaves it out")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as service:
        found = ratios(service, given.rounds, given.seconds, given.connections)
        print(table(found))
        print({name: measured.statuses for name, measured in found.items()})
        if given.polls or given.streams:
            print(held(service, Load, given.polls, given.streams))
        if given.jobs:
            print(page_buffers(service, given.jobs))


if __name__ == "__main__":
    main()
