"""What the database knows, as metrics. Any process may show it: all copies show the same."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.metadata import version
from itertools import accumulate
from math import inf
from typing import Final, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.counts import CATALOGUE, Counted, Sum, sums
from app.metrics import gauges
from app.settings import Settings

log = logging.getLogger(__name__)

STATEMENT_SECONDS: Final = 1
"""A statement of a scrape that takes longer is ended, its metric left out: the database has better to do."""
SCRAPE_SECONDS: Final = 5
"""After this time a scrape asks nothing more. Prometheus waits for ten seconds unless it is told otherwise."""


class DatabaseMetrics(Collector):
    """Asks at each scrape, in one snapshot. A database that does not answer is a metric, too."""

    def __init__(self, settings: Settings, engine: Engine, broker_is_up: Callable[[], bool]) -> None:
        self._settings = settings
        self._engine = engine.execution_options(isolation_level="REPEATABLE READ")
        self._broker_is_up = broker_is_up
        self._kept: dict[str, tuple[float, Metric | None]] = {}
        """By a gauge's name until when it is shown as it was read."""

    def describe(self) -> Iterable[Metric]:
        """Nothing is asked before the first scrape."""
        return ()

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("secateur_broker_up", "Whether the broker answers.", float(self._broker_is_up()))
        info = GaugeMetricFamily("secateur_build_info", "Always 1.", labels=["version"])
        info.add_metric([version("secateur")], 1)
        yield info
        found: list[Metric] = []
        up = False
        try:
            with Session(self._engine) as session:
                session.connection().exec_driver_sql(f"SET LOCAL statement_timeout = {STATEMENT_SECONDS * 1000}")
                up = session.scalar(text("SELECT 1")) == 1
                found.extend(self._read(session))
        except Exception as error:
            log.warning("the database could not be asked for metrics (%s)", type(error).__name__)
        yield GaugeMetricFamily("secateur_database_up", "Whether the database answers.", float(up))
        missing = len(gauges.GAUGES) + len(CATALOGUE) - len(found)
        yield GaugeMetricFamily(
            "secateur_scrape_errors", "Metrics of the database that this scrape had to leave out.", missing
        )
        yield from found

    def _read(self, session: Session) -> Iterator[Metric]:
        """What can be read in time, each in a savepoint: one that fails takes no other with it."""
        over = time.monotonic() + SCRAPE_SECONDS
        counted = _attempt(session, "counters", over, lambda: sums(session))
        for what in CATALOGUE if counted is not None else ():
            yield family(what, [each for each in counted or () if each.metric == what.name])
        for gauge in gauges.GAUGES:
            until, shown = self._kept.get(gauge.name, (0.0, None))
            if shown is None or time.monotonic() >= until:
                shown = _attempt(session, gauge.name, over, partial(gauges.read, session, gauge, self._settings))
                self._kept[gauge.name] = time.monotonic() + gauge.kept_seconds, shown
            if shown is not None:
                yield shown


T = TypeVar("T")


def _attempt(session: Session, name: str, over: float, read: Callable[[], T]) -> T | None:
    """None where it fails or time is up. Raises DBAPIError when the connection is lost."""
    if time.monotonic() >= over:
        return None
    try:
        with session.begin_nested():
            return read()
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        log.warning("%s could not be read in time (%s)", name, type(error.orig).__name__)
        return None


def family(what: Counted, counted: Iterable[Sum]) -> Metric:
    """A counter or histogram with all that was counted of it."""
    by_labels: dict[tuple[str, ...], list[Sum]] = {values: [] for values in what.known}
    for each in counted:
        by_labels.setdefault(tuple(each.labels.get(name, "") for name in what.labels), []).append(each)
    if not what.buckets:
        counter = CounterMetricFamily(what.name, what.help, labels=what.labels)
        for values, found in by_labels.items():
            counter.add_metric(values, sum(each.total for each in found))
        return counter
    histogram = HistogramMetricFamily(what.name, what.help, labels=what.labels)
    for values, found in by_labels.items():
        histogram.add_metric(values, _cumulative(what.buckets, found), sum(each.total for each in found))
    return histogram


def _cumulative(bounds: tuple[float, ...], found: Iterable[Sum]) -> list[tuple[str, float]]:
    """By upper bound how many were at most so large. What was counted by other bounds, in a release before, is in
    the next one above."""
    edges = (*bounds, inf)
    counts = dict.fromkeys(edges, 0)
    for each in found:
        value = inf if each.bound is None else each.bound
        counts[next(edge for edge in edges if value <= edge)] += each.count
    return [
        ("+Inf" if edge == inf else str(float(edge)), number)
        for edge, number in zip(edges, accumulate(counts.values()), strict=True)
    ]
