"""/livez and /readyz: for whoever starts, restarts and routes; they say nothing that needs a key."""

from collections.abc import Callable
from functools import lru_cache
from typing import Final, Literal

import anyio
import structlog
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Response
from pydantic import BaseModel
from sqlalchemy.orm import Session

from app.backend import Backend, BackendDep
from app.db.migrate import is_current
from app.dispatch.client import is_up
from app.kit.headers import Sent, sends
from app.kit.replies import reply
from app.storage.disk import Watermark
from app.workers.devices import not_ready

log = structlog.get_logger("app.health")
router = APIRouter(tags=["health"])

_SECONDS: Final = 4.0
Answer = Literal["ok", "failed"]


class LiveRead(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class ReadyRead(BaseModel):
    """Whether requests can be served. Without the broker they can (jobs are accepted and start later), and with a
    full disk all but uploads can, and where a worker's GPU does not work jobs wait longer."""

    status: Literal["ready", "degraded", "unavailable"]
    checks: dict[str, Answer]


@router.get("/livez", summary="Does the process answer", response_model=LiveRead)
async def livez() -> Response:
    """Always ok; a process that cannot say so should be started again."""
    return reply(LiveRead())


@router.get(
    "/readyz",
    summary="Can requests be served",
    response_model=ReadyRead,
    responses={503: {"model": ReadyRead, **sends(Sent.retry_after, description="Not at the moment")}},
)
async def readyz(backend: BackendDep) -> Response:
    """Asks the database (and whether it lacks a migration), the object store and the broker, and whether the
    service's disks have room for uploads, and what its workers have said of their GPUs (`devices`)."""
    found: dict[str, Answer] = dict.fromkeys(_CHECKS, "failed")
    async with anyio.create_task_group() as group:
        for name in _CHECKS:
            group.start_soon(_check, backend, name, found)
    needed = all(found[name] == "ok" for name in _CHECKS if name not in _SPARED)
    if not needed:
        return reply(ReadyRead(status="unavailable", checks=found), 503, {"Retry-After": "5"})
    whole = all(answer == "ok" for answer in found.values())
    return reply(ReadyRead(status="ready" if whole else "degraded", checks=found))


async def _check(backend: Backend, name: str, found: dict[str, Answer]) -> None:
    with anyio.move_on_after(_SECONDS):
        try:
            good = await to_thread.run_sync(_CHECKS[name], backend, abandon_on_cancel=True, limiter=_limiter(name))
        except Exception as error:
            log.warning("not_ready", check=name, error=type(error).__name__)
            return
        found[name] = "ok" if good else "failed"


@lru_cache
def _limiter(_: str) -> CapacityLimiter:
    """Threads for one check: those that hang in a frozen server must not use up the ones that requests need."""
    return CapacityLimiter(2)


def _database(backend: Backend) -> bool:
    """Reachable, with every migration of this code (and perhaps those of a later release)."""
    with backend.engine.connect() as connection:
        return is_current(connection)


def _store(backend: Backend) -> bool:
    return backend.store.reachable()


def _broker(backend: Backend) -> bool:
    return is_up(backend.settings.broker_url.get_secret_value())


def _disk(backend: Backend) -> bool:
    return Watermark(backend.settings).room() > 0


def _devices(backend: Backend) -> bool:
    """Of every worker there is, the GPU works and is its alone; which one does not, the log says."""
    with Session(backend.engine) as session:
        found = not_ready(session)
        for each in found:
            log.warning(
                "device_not_ready", worker=each.name, device=each.device, health=each.health, said=each.said
            )
        return not found


_CHECKS: Final[dict[str, Callable[[Backend], bool]]] = {
    "database": _database,
    "store": _store,
    "broker": _broker,
    "disk": _disk,
    "devices": _devices,
}
_SPARED: Final = frozenset({"broker", "disk", "devices"})
"""Without these most calls can be served."""
