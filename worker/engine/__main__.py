"""The engine's process: `python -m worker.engine --report-fd N --parent PID`. One job (or its plan, or a look
at a model), then the end.

The first line of standard input is the request; the lines after it are acknowledgements and the order to stop.
Reports leave through the given descriptor; what is printed is the job's log. The process has no key, no longer a
life than its parent, and, where the kernel lets it give that up, no network (`worker.isolation`); its first
report says how that went.
"""

import argparse
import errno
import hashlib
import os
import re
import sys
import traceback
from functools import partial

from secateur.spec.records.pipe import Engine, Failed, Hello, Planned, Reading
from secateur.spec.records.plan import PlanResult
from worker.engine.reporter import Reporter
from worker.isolation.enclosure import isolate
from worker.isolation.limits import Confinement
from worker.model_files.errors import is_out_of_memory


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
            reporter.tell(_describe(error))
            return 1
    return 0


def _run(line: bytes, reporter: Reporter, isolation: dict[str, bool]) -> None:
    """Raises SpecError for a request that is none."""
    import torch

    from worker.pruning import ENGINE_FORMAT, inspect, plan, run
    from worker.pruning.estimate import estimates
    from worker.pruning.plan import look, skipped
    from worker.pruning.request import InspectionRequest, read_request
    from worker.pruning.runtime.numerics import versions

    job = read_request(line)
    torch.set_num_threads(job.threads)
    if isinstance(job, InspectionRequest):
        reporter.tell(inspect(job.inspect, lambda: reporter.tell(Reading())))
        return
    if job.dry_run:
        reporter.tell(Planned(plan=PlanResult.model_validate(plan(job))))
        return
    engine = Engine(
        engine_format=ENGINE_FORMAT,
        versions=versions(),
        device=job.device,
        threads=job.threads,
        isolation=isolation,
    )
    found = look(job)
    left = skipped(found.graph, found.checkpoint, found.shares)
    expected = estimates(found)
    reporter.tell(Hello(engine=engine, blocks=len(found.graph.blocks), skipped=left, estimates=expected))
    reporter.tell(run(job, reporter, found))


def _describe(error: BaseException) -> Failed:
    """A failure for its owner; `detail` is for the operator's log only."""
    from worker.pruning import IllConditioned, UserError

    detail = "".join(traceback.format_exception(error))
    if isinstance(error, UserError):
        told = detail if error.__cause__ is not None else None
        return Failed(code=error.code, cause="user", message=error.message, field=error.field, detail=told)
    if isinstance(error, IllConditioned):
        # The same job would end the same way: only other settings, another text or another model can help.
        return Failed(code="ill_conditioned", cause="user", message=str(error))
    system = partial(Failed, cause="system", detail=detail)
    if is_out_of_memory(error):
        return system(code="out_of_memory", message="The engine ran out of memory.")
    if os.strerror(errno.ENOSPC) in str(error):  # safetensors has an exception of its own for it
        return system(code="disk_full", message="The worker's disk is full.")
    message = "The engine stopped with an error of its own. Its operator finds it in the worker's log."
    return system(code="engine_failed", message=message, fingerprint=_fingerprint(error))


def _fingerprint(error: BaseException) -> str:
    """The same for the same error at the same place, in whatever process: its type, its words without numbers, and
    the lines that led to it."""
    lines = [f"{frame.name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
    said = re.sub(r"0x[0-9a-f]+|\d+", "#", str(error))
    text = "\n".join([type(error).__qualname__, said, *lines])
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: everything is published or reported, and taking torch down would only take time.
    os._exit(code)
