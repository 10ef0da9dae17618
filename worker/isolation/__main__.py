"""The child of `run_isolated`: `python -m worker.isolation MODULE --report-fd N --parent PID --confinement JSON`.

It is cut off first; then it reads the request, one line of standard input, imports the module, and lets its
`answer(request, tell)` work. What is printed goes to the parent's log.
"""

import argparse
import json
import os
import sys
import traceback
from importlib import import_module
from typing import Any

from worker.isolation.enclosure import isolate
from worker.isolation.limits import Confinement
from worker.machine_errors import is_out_of_memory
from worker.model_files.errors import IntakeError


def main() -> None:
    """Answers, refuses, or says how it failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("module")
    parser.add_argument("--report-fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--confinement", type=Confinement.load, required=True)
    arguments = parser.parse_args()
    isolate(arguments.parent, arguments.confinement)
    os.set_inheritable(arguments.report_fd, False)
    with os.fdopen(arguments.report_fd, "w", encoding="utf-8") as reports:

        def send(message: dict[str, Any]) -> None:
            reports.write(json.dumps(message) + "\n")
            reports.flush()

        try:
            request = json.loads(sys.stdin.buffer.readline())
            answer = import_module(arguments.module).answer
            send({"type": "answer", "answer": answer(request, lambda told: send({"type": "told", "told": told}))})
        except IntakeError as error:
            send({"type": "refused", "code": error.code, "message": error.message, "field": error.field})
        except BaseException as error:
            send(_failure(error))


def _failure(error: BaseException) -> dict[str, Any]:
    """limit: memory, where that was the reason."""
    detail = "".join(traceback.format_exception(error))[-10_000:]
    return {"type": "failed", "limit": "memory" if is_out_of_memory(error) else None, "detail": detail}


if __name__ == "__main__":
    main()
