"""The real engine on two GPUs that are pretended: `python pretend_engine.py --report-fd N --parent PID`.

Its log says how much was launched on each.
"""

import os
import sys
from typing import Any

import worker.pruning
from tests.pretend_gpu import pretend_gpu
from worker.engine.__main__ import main
from worker.pruning.model import block_runner
from worker.pruning.runtime import machine

if __name__ == "__main__":
    block_runner.BATCH_TOKENS = 64  # so small that devices take turns
    # What a GPU does in a moment takes a processor a minute.
    machine.SIDES["cuda"], machine.COPIED_BYTES["cuda"] = 64, 2**16
    run = worker.pruning.run

    with pretend_gpu(devices=2) as counts:

        def counted(*arguments: Any) -> Any:
            output = run(*arguments)
            print("launched", *(counts.launched[device] for device in range(2)), flush=True)
            return output

        worker.pruning.run = counted
        code = main()
    sys.stdout.flush()
    os._exit(code)
