"""The engine as a measured child: python -m benchmarks.ours REQUEST ANSWER (see benchmarks.child).

The clock runs from the call of the engine to the saved model: it includes reading and tokenising the calibration
text, loading, calibration, solving, saving, and the report; not Python's imports.
"""

import json
import os
import sys
import time
from pathlib import Path


def main() -> None:
    asked, answered = map(Path, sys.argv[1:])
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as in worker.engine, before torch reads it
    from transformers import AutoConfig, AutoModelForCausalLM

    from worker.pruning import PruningJob, Silent, run
    from worker.pruning.plan import plan
    from worker.pruning.runtime import memory

    memory.map_large()
    job = PruningJob.from_dict(json.loads(asked.read_text()))
    # The architecture's module is imported by its first use; that is an import, too.
    _ = AutoModelForCausalLM._model_mapping[type(AutoConfig.from_pretrained(job.model))]
    planned = plan(job)["estimates"]["seconds"]["total"]
    began, before = time.monotonic(), time.process_time()
    output = run(job, Silent())
    seconds, processor = time.monotonic() - began, time.process_time() - before
    model = next(file.local for file in output.files if file.path == "model/config.json")
    folder = str(job.workspace / Path(model).parent)
    times = {"seconds": seconds, "processor_seconds": processor, "planned_seconds": planned}
    answered.write_text(json.dumps(times | {"model": folder, "summary": output.summary.model_dump()}))


if __name__ == "__main__":
    main()
