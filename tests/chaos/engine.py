"""The real engine, which also writes down each block that it has solved: `-m tests.chaos.engine LEDGER …`.

A line of the ledger: `<job>-<fence> <stage> <block>`. The other arguments are the engine's own.
"""

import os
import sys
from pathlib import Path
from typing import Any

from worker.engine import __main__
from worker.engine.reporter import Reporter

LEDGER = Path(sys.argv.pop(1))
ATTEMPT = Path.cwd().parent.name
"""The scratch folder's name, made of the job and its fence."""

report = Reporter.block


def note_and_report(reporter: Reporter, block: Any) -> None:
    with LEDGER.open("ab", buffering=0) as ledger:
        ledger.write(f"{ATTEMPT} {block.stage} {block.block}\n".encode())
    report(reporter, block)


if __name__ == "__main__":
    Reporter.block = note_and_report  # type: ignore[method-assign]
    code = __main__.main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
