"""What a real GPU says about the engine, in under ten minutes of one H100: python -m benchmarks.gpu

Facts of the machine and whether CUDA starts under an engine's isolation; the kernels that matter; every method on
the GPU against the CPU; the same bytes again and after a resume; what is said when memory is short; two blocks of
an 8B Llama, part by part. Models are made here, of random weights. Every row is said as it is found and kept in
--out; a section that fails stops none after it. `--device cpu --small` tries the sections themselves.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.gpu_bench import Bench, prune
from benchmarks.gpu_jobs import agree, memory, repeat, resume
from benchmarks.gpu_kernels import kernels
from benchmarks.gpu_speed import speed
from benchmarks.output import add_out
from worker.isolation.environment import environment
from worker.pruning.runtime.fingerprint import fingerprint
from worker.pruning.runtime.machine import measure
from worker.pruning.runtime.numerics import pick_device

ISOLATED = """
import json, os, sys
from worker.isolation.enclosure import isolate
said = isolate(os.getppid())
import torch
one = torch.ones(256, 256, device=sys.argv[1])
print(json.dumps({**said, "sum": float((one @ one).sum())}))
"""


def facts(bench: Bench, work: Path) -> None:
    """The machine, its rates as a worker measures them, and whether CUDA starts in an engine's isolation."""
    bench.say("facts", **fingerprint(bench.device).model_dump(mode="json", exclude_none=True))
    bench.say("facts", **measure(str(bench.device), work, torch.get_num_threads()).rates.model_dump(mode="json"))
    done = subprocess.run(
        [sys.executable, "-c", ISOLATED, str(bench.device)],
        capture_output=True,
        text=True,
        env=environment(work, 1),
    )
    told = done.stdout.strip() or done.stderr.strip()[-400:]
    bench.say("facts", isolated=told, ok=done.returncode == 0 and json.loads(told)["sum"] == 256.0**3)


def sections(given: argparse.Namespace, bench: Bench) -> dict[str, Callable[[Path], None]]:
    return {
        "facts": lambda work: facts(bench, work),
        "kernels": lambda work: kernels(bench),
        "agree": lambda work: agree(bench, work),
        "repeat": lambda work: repeat(bench, work),
        "resume": lambda work: resume(bench, work),
        "memory": lambda work: memory(bench, work),
        "speed": lambda work: speed(bench, work, given.methods.split(","), given.samples),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_out(parser, "gpu")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--only", help="sections, with commas between them")
    parser.add_argument("--small", action="store_true", help="toy sizes")
    parser.add_argument("--methods", default="wanda,admm,sparsegpt", help="of the section speed")
    parser.add_argument("--samples", type=int, default=128, help="of the section speed")
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        prune(given.job)
        return
    bench = Bench(pick_device(given.device), given.small, given.out)
    every = sections(given, bench)
    failed = []
    for name in given.only.split(",") if given.only else every:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            try:
                every[name](Path(folder))
            except Exception as error:
                failed.append(name)
                bench.say(name, error=f"{type(error).__name__}: {error}"[:400], ok=False)
                traceback.print_exc()
        bench.say(name, seconds=round(time.monotonic() - began, 1))
    sys.exit(bool(failed) or not all(row.get("ok", True) for row in bench.rows))


if __name__ == "__main__":
    main()
