"""Break a service at random for a while: `python -m tests.chaos --jobs 50 --seed 7 --json report.json`.

It ends with 0 when every promise was kept. The same seed draws the same faults and pauses; what they hit depends
on the machine too.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from random import Random, randrange
from threading import Event

from tests.chaos.examination import ENDED, Figures, engines, examine, processes_of
from tests.chaos.faults import Chaos, Pace
from tests.chaos.harness import METHODS, House
from tests.worker.harness import wait_until

IN_FLIGHT = 2
"""Jobs at a time, so that each has a worker."""
FEW = 5
"""With so few jobs one method is enough."""
QUIET_SECONDS = 180.0
"""By then every job must have ended once nothing more is broken."""


def main() -> int:
    arguments = parse()
    print(f"seed {arguments.seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="secateur-chaos-"))
    figures = Figures(arguments.seed, 0.0)
    methods = METHODS if arguments.jobs > FEW else METHODS[:1]
    house = House(folder, Random(arguments.seed + 1), methods)
    with house:
        run(house, arguments.jobs, arguments.minutes, figures)
    left = [process.info["cmdline"] for process in processes_of(house)]
    if left:
        figures.violations.append(f"processes are left: {left}")
    figures.recoveries.sort(key=lambda recovery: recovery[1])
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures.as_json(), indent=2) + "\n")
    print(json.dumps({**figures.as_json(), "recoveries": len(figures.recoveries)}, indent=2))
    if figures.violations:
        print(f"logs are in {folder}; repeat with --seed {arguments.seed}")
        return 1
    shutil.rmtree(folder)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=50, help="disturbed jobs to run")
    parser.add_argument("--seed", type=int, default=randrange(10**6))
    parser.add_argument("--minutes", type=float, default=20, help="no new job after this time")
    parser.add_argument("--json", type=Path, help="where the figures go")
    return parser.parse_args()


def run(house: House, wanted: int, minutes: float, figures: Figures) -> None:
    """First one job of each method undisturbed, then faults until so many jobs were disturbed."""
    began = time.monotonic()
    jobs: dict[int, str] = {}
    for number in range(len(house.methods)):
        submit(house, jobs, number)
    wait_until(lambda: not open_jobs(house, jobs), QUIET_SECONDS)
    assert set(states(house, jobs).values()) == {"succeeded"}, "the undisturbed jobs failed"
    draw = Random(figures.seed)
    chaos = Chaos(house, draw)
    pace = Pace(house, draw)
    never = Event()
    while disturbed(chaos, house, jobs) < wanted and time.monotonic() - began < 60 * minutes:
        if (missing := IN_FLIGHT - len(open_jobs(house, jobs))) > 0:
            for number in range(len(jobs), len(jobs) + missing):
                submit(house, jobs, number)
        if pace.is_time():
            chaos.strike()
        never.wait(0.1)
    print(f"{len(chaos.faults)} faults in {time.monotonic() - began:.0f} s; now quiet", flush=True)
    settle(house, jobs, figures)
    figures.seconds = round(time.monotonic() - began, 1)
    examine(house, jobs, chaos.faults, figures)


def submit(house: House, jobs: dict[int, str], number: int) -> None:
    """Until the API has taken it."""
    found: list[str] = []

    def sent() -> bool:
        id = house.submit(number)
        found.extend([id] if id is not None else [])
        return id is not None

    wait_until(sent, 60)
    jobs[number] = found[0]


def settle(house: House, jobs: dict[int, str], figures: Figures) -> None:
    """Wait for all jobs to end, and for what was frozen to wake up and go."""
    try:
        wait_until(lambda: not open_jobs(house, jobs), QUIET_SECONDS)
        wait_until(lambda: not engines(house), 30)
    except AssertionError:
        figures.violations.append(f"jobs did not end: {open_jobs(house, jobs)}")


def states(house: House, jobs: dict[int, str]) -> dict[str, str]:
    """Of the jobs; `unknown` while the database is away."""
    rows = house.query("SELECT id, state FROM jobs")
    return dict.fromkeys(jobs.values(), "unknown") if rows is None else dict(rows)


def open_jobs(house: House, jobs: dict[int, str]) -> list[str]:
    return [job for job, state in states(house, jobs).items() if state not in ENDED]


def disturbed(chaos: Chaos, house: House, jobs: dict[int, str]) -> int:
    """Jobs that were struck and are over."""
    struck = {job for fault in chaos.faults for job, _ in fault.held}
    return len(struck - set(open_jobs(house, jobs)))


if __name__ == "__main__":
    sys.exit(main())
