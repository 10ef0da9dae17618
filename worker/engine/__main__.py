"""The engine's process: `python -m worker.engine --report-fd N --parent PID`. One job (or its plan, or a look
at a model), then the end.

The first line of standard input is the request; the lines after it are acknowledgements and the order to stop.
Reports leave through the given descriptor; what is printed is the job's log. The process has no key, no longer a
life than its parent, and, where the kernel lets it give that up, no network (`worker.isolation`); its first
report says how that went.
"""

import argparse
import os
import sys

from secateur.spec.records.pipe import Engine, Hello, Measured, Planned, Reading
from secateur.spec.records.plan import PlanResult
from worker.engine.reporter import Reporter
from worker.isolation.enclosure import isolate
from worker.isolation.limits import Confinement


def main() -> int:
    """The exit code: 0 after a published output, 1 after a reported failure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--report-fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--confinement", type=Confinement.load, default=Confinement())
    arguments = parser.parse_args()
    isolation = isolate(arguments.parent, arguments.confinement)
    os.set_inheritable(arguments.report_fd, False)
    line = sys.stdin.buffer.readline()
    # Large tensors get pages of their own (`heap.map_large`): huge ones, where the system has them, cost less.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    # Only now: torch reads the environment.
    from worker.engine.failures import describe
    from worker.pruning import Stopped
    from worker.pruning.runtime import memory as heap

    heap.map_large()

    with os.fdopen(arguments.report_fd, "w", encoding="utf-8") as reports:
        reporter = Reporter(reports, lambda: Stopped("the supervisor asked to stop"))
        reporter.listen()
        try:
            _run(line, reporter, isolation)
        except Stopped:
            return 1
        except BaseException as error:
            reporter.tell(describe(error, line))
            return 1
    return 0


def _run(line: bytes, reporter: Reporter, isolation: dict[str, bool]) -> None:
    """Raises SpecError for a request that is none."""
    import torch

    from worker.pruning import ENGINE_FORMAT, inspect, plan, run
    from worker.pruning.fitting import estimates
    from worker.pruning.plan import look, skipped
    from worker.pruning.request import InspectionRequest, MeasurementRequest, read_request
    from worker.pruning.runtime.fingerprint import fingerprint, versions
    from worker.pruning.runtime.machine import measure
    from worker.pruning.runtime.numerics import pick_devices, torch_settings

    job = read_request(line)
    torch.set_num_threads(job.threads)
    if isinstance(job, InspectionRequest):
        reporter.tell(inspect(job.inspect, lambda: reporter.tell(Reading())))
        return
    if isinstance(job, MeasurementRequest):
        machine = measure(job.device, job.measure, job.threads, job.host_bytes)
        reporter.tell(Measured(machine=machine))
        return
    if job.dry_run:
        reporter.tell(Planned(plan=PlanResult.model_validate(plan(job))))
        return
    devices = pick_devices(job.device)
    with torch_settings(job.threads, job.numerics, devices[0]):
        known = fingerprint(devices[0], len(devices))
    engine = Engine(
        engine_format=ENGINE_FORMAT,
        versions=versions(),
        device=job.device,
        fingerprint=known,
        threads=job.threads,
        isolation=isolation,
    )
    found = look(job)
    left = skipped(found)
    expected = estimates(found)
    reporter.tell(Hello(engine=engine, blocks=len(found.graph.blocks), skipped=left, estimates=expected))
    reporter.tell(run(job, reporter, found))


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: everything is published or reported, and taking torch down would only take time.
    os._exit(code)
