"""The real engine, which also writes down each block that it has solved: `-m tests.chaos.engine LEDGER …`.

A line of the ledger: `<job>-<fence> <stage> <block>`. The other arguments are the engine's own.
"""

import os
import sys
from pathlib import Path

from secateur.spec.records.pipe import BlockResult, Message
from worker.engine import __main__
from worker.engine.reporter import Reporter

LEDGER = Path(sys.argv.pop(1)).open("ab", buffering=0)  # noqa: SIM115 - open to the end
"""Opened before the engine shuts itself off from the files of others."""
ATTEMPT = Path.cwd().parent.name
"""The scratch folder's name, made of the job and its fence."""

tell = Reporter.tell


def note_and_tell(reporter: Reporter, record: Message) -> None:
    if isinstance(record, BlockResult):
        LEDGER.write(f"{ATTEMPT} {record.stage} {record.block}\n".encode())
    tell(reporter, record)


if __name__ == "__main__":
    Reporter.tell = note_and_tell  # type: ignore[method-assign]
    code = __main__.main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
