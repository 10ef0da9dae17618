"""The port that Prometheus scrapes. It shows no project's data, and wants no key: let only Prometheus reach it."""

import logging
from collections.abc import Iterable

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)
from prometheus_client.registry import Collector

from app.settings import Settings

log = logging.getLogger(__name__)


def registry(*collectors: Collector) -> CollectorRegistry:
    """With what the process itself takes of the machine."""
    made = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=made)
    PlatformCollector(registry=made)
    GCCollector(registry=made)
    for each in collectors:
        made.register(each)
    return made


def show_metrics(settings: Settings, collectors: Iterable[Collector]) -> int | None:
    """Listen at `metrics_listen`, on a thread of its own; the port, or None without the setting.

    A port that cannot be had is no reason to stop: metrics are not what the process is for.
    """
    if settings.metrics_listen is None:
        return None
    host, _, port = settings.metrics_listen.rpartition(":")
    try:
        server, _ = start_http_server(int(port), host.strip("[]"), registry(*collectors))
    except OSError as error:
        log.error("no metrics are shown at %s: %s", settings.metrics_listen, error.strerror)
        return None
    return int(server.server_port)
