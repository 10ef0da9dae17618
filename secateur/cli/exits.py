"""Exit codes of the command line."""

from enum import IntEnum
from typing import Final

from secateur.transport import Answer


class Exit(IntEnum):
    """What a shell script can decide by."""

    well = 0
    failed = 1
    """The job has failed, or the server has refused."""
    usage = 2
    """The command or the spec is wrong; nothing was begun."""
    cancelled = 3
    gate_missed = 4
    """The job is done and has its files, but its result is not what its gate asks for."""
    not_reachable = 5
    """The server does not answer; what became of a job is not known."""
    interrupted = 130


OF_STATE: Final = {"succeeded": Exit.well, "failed": Exit.failed, "cancelled": Exit.cancelled}


def exit_of(job: Answer) -> Exit:
    """How a finished job has ended."""
    missed = (job.get("failure") or {}).get("code") == "gate_failed"
    return Exit.gate_missed if missed else OF_STATE.get(job["state"], Exit.failed)
