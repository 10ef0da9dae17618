"""What is left after the faults: whether every promise was kept, and the figures."""

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from statistics import median
from typing import Any, Final

import psutil

from tests.chaos.checks import half_written
from tests.chaos.faults import LEASE, Fault
from tests.chaos.harness import BLOCKS, DOMAINS, TIMES, House

BUDGET: Final = int(TIMES["SECATEUR_MAX_ATTEMPTS"])
ENDED: Final = ("succeeded", "failed", "cancelled")
WORKER_FAULTS: Final = ("engine", "child", "parent", "group")
TIDYING_SECONDS: Final = 20.0
"""A worker removes its files after its job has ended for everybody else; it may take so long on a busy machine."""
Block = tuple[str, int, int]


@dataclass
class Figures:
    """Of one run."""

    seed: int
    seconds: float
    jobs: int = 0
    succeeded: int = 0
    disturbed: int = 0
    """Jobs that a fault struck while a worker held them."""
    attempts_lost: dict[str, int] = field(default_factory=dict)
    """Attempts that did not succeed, by how they ended."""
    faults: dict[str, int] = field(default_factory=dict)
    lease: float = LEASE
    recovery_median: float | None = None
    """Seconds from the fault to the next attempt's start, for attempts that a fault ended."""
    recovery_worst: float | None = None
    recoveries: list[tuple[str, float]] = field(default_factory=list)
    blocks: int = 0
    """Different blocks of all jobs."""
    blocks_solved_again: int = 0
    """Solved more than once because a fault came before the commit: the work repeated."""
    violations: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def examine(house: House, jobs: dict[int, str], faults: Sequence[Fault], figures: Figures) -> None:
    """Fill in the figures of a quiet house."""
    look = _Examination(house, jobs, faults, figures)
    look.jobs_ended_once()
    look.results()
    look.attempts()
    look.blocks()
    look.recovery()
    look.leftovers()
    figures.faults = dict(Counter(fault.kind for fault in faults))
    held = {job for fault in faults for job, _ in fault.held}
    figures.disturbed = len(held & set(jobs.values()))


class _Examination:
    def __init__(self, house: House, jobs: dict[int, str], faults: Sequence[Fault], figures: Figures) -> None:
        self._house = house
        self._jobs = jobs
        self._faults = faults
        self._figures = figures

    def jobs_ended_once(self) -> None:
        """Every request made one job, and every job has one end, which is its last change of state."""
        states = dict(self._ask("SELECT id, state FROM jobs"))
        self._demand(set(states) == set(self._jobs.values()), "a request made no job, or more than one")
        events = self._ask("SELECT job_id, seq, data->>'to' FROM job_events ORDER BY job_id, seq")
        for job, state in states.items():
            mine = [(seq, to) for owner, seq, to in events if owner == job]
            ends = [to for _, to in mine if to in ENDED]
            self._demand([seq for seq, _ in mine] == list(range(1, len(mine) + 1)), f"{job}: events have a gap")
            self._demand(ends == [state], f"{job} is {state}, its events say {ends}")
            self._demand([to for _, to in mine if to][-1:] == [state], f"{job} changed after its end")
        self._figures.jobs = len(states)
        self._figures.succeeded = list(states.values()).count("succeeded")

    def results(self) -> None:
        """The same digest for the same work; a failure has spent its budget and says why."""
        digests: dict[int, set[str]] = {}
        rows = self._ask("SELECT id, state, manifest->>'digest', failure->>'code', lost_attempts FROM jobs")
        numbers = {job: number for number, job in self._jobs.items()}
        for job, state, digest, code, lost in rows:
            if state == "succeeded":
                digests.setdefault(numbers[job] % len(self._house.methods), set()).add(digest)
            else:
                self._demand(
                    state == "failed" and code and lost == BUDGET, f"{job}: {state} ({code}) after {lost}"
                )
            self._demand(lost <= BUDGET, f"{job} spent {lost} attempts of {BUDGET}")
        for method, found in digests.items():
            self._demand(len(found) == 1, f"method {method} has {len(found)} different artifacts")

    def attempts(self) -> None:
        rows = self._ask("SELECT job_id, number, outcome FROM job_attempts")
        self._demand(all(outcome for *_, outcome in rows), "an attempt never ended")
        lost = Counter(outcome for *_, outcome in rows if outcome != "succeeded")
        self._figures.attempts_lost = dict(lost)

    def blocks(self) -> None:
        """Who committed what, and who solved what although it was committed."""
        committed: dict[Block, int] = {}
        rows = self._ask("SELECT job, stage, block, fence FROM chaos_commits ORDER BY at")
        for job, stage, block, fence in rows:
            first = committed.setdefault((job, stage, block), fence)
            self._demand(first == fence, f"{job}: block {stage}/{block} was committed by two attempts")
        solved: Counter[Block] = Counter()
        for line in self._house.ledger.read_text().splitlines():
            attempt, stage_text, block_text = line.split()
            job, _, fence_text = attempt.rpartition("-")
            key = (job, int(stage_text), int(block_text))
            solved[key] += 1
            late = key in committed and int(fence_text) > committed[key]
            self._demand(not late, f"{job}: block {key[1]}/{key[2]} was solved again after its commit")
        self._figures.blocks = len(solved)
        self._figures.blocks_solved_again = sum(solved.values()) - len(solved)
        expected = self._figures.succeeded * BLOCKS * len(DOMAINS)
        self._demand(len(committed) >= expected, f"{len(committed)} blocks are committed, not {expected}")

    def recovery(self) -> None:
        rows = self._ask(
            "SELECT job_id, number, extract(epoch FROM started_at)::float, extract(epoch FROM ended_at)::float, "
            "outcome FROM job_attempts"
        )
        started = {(job, number): start for job, number, start, *_ in rows}
        for job, number, _, ended, outcome in rows:
            after = started.get((job, number + 1))
            blow = self._blow(job, number, ended)
            if outcome != "succeeded" and after is not None and blow is not None:
                self._figures.recoveries.append((f"{blow.kind}: {outcome}", round(after - blow.at, 2)))
        times = [seconds for _, seconds in self._figures.recoveries]
        if times:
            self._figures.recovery_median, self._figures.recovery_worst = round(median(times), 2), max(times)

    def _blow(self, job: str, attempt: int, ended: float) -> Fault | None:
        """What ended the attempt: the last fault that struck its worker, else the last that struck a server."""
        struck = [fault for fault in self._faults if (job, attempt) in fault.held and fault.at <= ended]
        own = [fault for fault in struck if fault.what in WORKER_FAULTS]
        return (own or struck or [None])[-1]

    def leftovers(self) -> None:
        from app.garbage.sweep import Sweep
        from app.settings import get_settings
        from app.storage import open_store
        from worker.attempt.scratch import sweep

        self._demand(self._ask("SELECT count(*) FROM job_leases") == [(0,)], "a lease is left")
        self._demand(engines(self._house) == [], "an engine is left")
        deadline = time.monotonic() + TIDYING_SECONDS
        while left := [path.name for path in (self._house.work / "scratch").iterdir()]:
            sweep(self._house.work)
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        self._demand(not left, f"scratch folders are left: {left}")
        store = open_store(get_settings())
        self._demand(half_written(store) == [], "an object is not what its name says")
        named = {row[0] for row in self._ask(NAMED)}
        missing = named - {key for key, _ in store.list("jobs")}
        self._demand(not missing, f"{len(missing)} objects are missing")
        Sweep(store, lambda: None, timedelta(0)).everything()
        keys = {key for key, _ in store.list("jobs")}
        self._demand(named <= keys, f"the sweep took {len(named - keys)} objects that are needed")
        self._demand(keys <= named, f"{len(keys - named)} objects are nobody's after the sweep")

    def _ask(self, statement: str) -> list[tuple[Any, ...]]:
        rows = self._house.query(statement)
        assert rows is not None, "the database is away although nothing is broken any more"
        return rows

    def _demand(self, kept: Any, otherwise: str) -> None:
        if not kept:
            self._figures.violations.append(otherwise)


NAMED: Final = """
    SELECT file->>'key' FROM jobs, jsonb_array_elements(manifest->'files') file
    UNION SELECT manifest->>'key' FROM jobs WHERE manifest IS NOT NULL
    UNION SELECT file->>'key' FROM job_blocks, jsonb_array_elements(files) file
"""
"""Keys of all objects that an artifact or a checkpoint needs."""


def engines(house: House) -> list[psutil.Process]:
    """Engines of that house, whoever their parents are."""
    return _processes(lambda command: str(house.ledger) in command and "--report-fd" in command)


def processes_of(house: House) -> list[psutil.Process]:
    """Everything that runs from its folder."""
    place = re.compile(re.escape(str(house.folder)) + r"(/|$)")
    return _processes(lambda command: any(place.search(argument) for argument in command))


def _processes(wanted: Callable[[list[str]], bool]) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if process.info["status"] != psutil.STATUS_ZOMBIE and wanted(process.info["cmdline"] or []):
            found.append(process)
    return found
