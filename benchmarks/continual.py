"""Three domains one after another: what is forgotten, and how far from calibrating on all of them at once.

    python -m benchmarks.continual --data DIR [--threads 1 --jobs 2] [--rows 'admm/*,copal*'] [--orders wpc,cwp]
        [--choose] [--out FILE]

DIR holds calibration and test texts of wikitext2, ptb (calibration.txt, test.txt) and c4 (the same as .jsonl).
SmolLM2-135M is pruned for one after another; each stage continues the one before as a job of its own. Prints a
table, every R and the goals, and writes JSON. Stages are made once, whatever rows share them, and their figures
are kept in --cache: a run that was broken off goes on where it stopped. --choose evaluates windows 11 to 30 after
each row's last stage alone, for choosing between variants; what is reported is windows 1 to 10.
"""

import argparse
import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.child import ending_in_order
from benchmarks.continual_figures import COLUMNS, goals, summarise
from benchmarks.continual_rows import CALIBRATIONS, JOINT, MAIN, Row, choose
from benchmarks.continual_stages import Stages
from benchmarks.continual_steps import make, steps
from benchmarks.machine import machine
from benchmarks.model import add_model, read_model
from benchmarks.output import add_out
from benchmarks.protocol import add_arguments, read_arguments
from worker.pruning.evaluation.losses import native_dtype
from worker.pruning.state.atomic import write_json

CHOOSING = (10, 20)
"""The first window (from 0) and the number of windows that variants are chosen on; none of them is reported."""
TABLE = ("row", *COLUMNS, "mean", "BWT", "log BWT", "seconds", "state")


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.set_defaults(samples=32, windows=10)
    add_model(parser)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: what the processor multiplies")
    parser.add_argument(
        "--rows",
        default=MAIN,
        metavar="GLOBS",
        help="comma-separated, of SETTING/ORDER; '*': all there are",
    )
    parser.add_argument(
        "--orders", default="", help="comma-separated, of the domains' first letters; default: all"
    )
    parser.add_argument("--choose", action="store_true", help="evaluate the windows for choosing, 11 to 30")
    parser.add_argument(
        "--jobs", type=int, default=1, help="stages made at a time, each with --threads of its own"
    )
    parser.add_argument("--keep-stages", action="store_true", help="leave models and states in the cache")
    parser.add_argument("--list", action="store_true", help="print the chosen rows' names and stop")
    add_out(parser, "continual")
    options = parser.parse_args(given)
    if options.jobs < 1:
        parser.error("--jobs: at least 1")
    return options


def chosen_rows(options: argparse.Namespace) -> list[Row]:
    """Ends the program where a glob or an order matches nothing."""
    try:
        chosen = choose(options.rows, options.orders)
    except ValueError as error:
        sys.exit(str(error))
    for row in chosen:
        if not row.setting.known:
            print(f"left out, not in this engine: {row.name}", file=sys.stderr)
    return [row for row in chosen if row.setting.known]


def open_stages(options: argparse.Namespace) -> Stages:
    """The model made, the texts there, the windows decided."""
    if options.choose:
        options.windows = CHOOSING[1]
    protocol = read_arguments(options)
    missing = [file for file, _ in CALIBRATIONS.values() if not (protocol.data / file).is_file()]
    if missing:
        sys.exit(f"--data has no {', '.join(missing)}")
    dtype = options.dtype or native_dtype(torch.device("cpu"))
    model = read_model(options, getattr(torch, dtype))
    first = CHOOSING[0] if options.choose else 0
    return Stages(model, dtype, options.cache, protocol, first, options.jobs)


@contextmanager
def alone(cache: Path) -> Iterator[None]:
    """Ends the program while another one makes stages in the folder: each would remove what the other needs."""
    with (cache / "continual.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit(f"another run is making stages in {cache}: wait for it, or give --cache another folder")
        yield


def fill(stages: Stages, rows: list[Row], *, keep: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """Every row's summary, printed as it comes, and the errors of those that failed. keep: the stages' folders."""
    print("| " + " | ".join(TABLE) + " |\n|" + "---|" * len(TABLE), flush=True)
    errors: dict[str, str] = {}
    found: dict[str, Any] = {}
    failed: dict[str, str] = {}

    def report() -> None:
        for row in rows:
            if row.name in found or row.name in failed:
                continue
            wanted = stages.wanted(row)
            broken = next((errors[name] for name in map(stages.name, wanted) if name in errors), None)
            if broken is not None:
                failed[row.name] = broken
                print(f"| {row.name} | failed |", flush=True)
            elif all(map(stages.is_kept, wanted)):
                made = [stages.figures(stage) for stage in wanted]
                found[row.name] = summarise(row, [stages.perplexity(stage["losses"]) for stage in made], made)
                print(line(row.name, found[row.name]), flush=True)

    report()
    for made in make(stages, steps(stages, rows)):
        if made.error is not None:
            errors[stages.name(made.stage)] = made.error
        report()
        if not keep:
            stages.sweep(made.left)
    if not keep:
        stages.sweep(())
    return {row.name: found[row.name] for row in rows if row.name in found}, failed


def line(name: str, row: dict[str, Any]) -> str:
    """One row of a Markdown table: perplexities after the last stage."""
    cells = [name, *(f"{row['final'][column]:.2f}" for column in COLUMNS), f"{row['mean']:.2f}"]
    cells += ["" if row["bwt"] is None else f"{row['bwt']:+.2f}"]
    cells += ["" if row["log_bwt"] is None else f"{row['log_bwt']:+.4f}"]
    return "| " + " | ".join([*cells, f"{row['seconds']:.0f}", f"{row['state_bytes'] / 2**20:.1f} MiB"]) + " |"


def matrices(found: dict[str, Any], dense: dict[str, float]) -> str:
    """R of every row, one line a stage."""
    lines = ["| R: row | after | " + " | ".join(COLUMNS) + " |", "|" + "---|" * (2 + len(COLUMNS))]
    lines.append("| | dense | " + " | ".join(f"{dense[column]:.2f}" for column in COLUMNS) + " |")
    for name, row in found.items():
        for domain, values in zip(row["stages"], row["R"], strict=True):
            after = "all at once" if domain == JOINT else domain
            lines.append(f"| {name} | {after} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    return "\n".join(lines)


def main(given: list[str] | None = None) -> int:
    options = arguments(given)
    rows = chosen_rows(options)
    if options.list:
        print("\n".join(row.name for row in rows))
        return 0
    stages = open_stages(options)
    with ending_in_order(), alone(options.cache):
        dense = stages.perplexity(stages.dense()["losses"])
        found, failed = fill(stages, rows, keep=options.keep_stages)
    print("\n" + matrices(found, dense))
    checked = goals(found) if stages.reported else []
    print("\n| goal | value | limit | orders | |\n|---|---|---|---|---|")
    print("\n".join(goal.line for goal in checked))
    document = {
        "machine": machine(),
        "dtype": stages.dtype,
        "jobs": stages.jobs,
        "protocol": stages.identity(),
        "dense": dense,
        "rows": found,
        "failed": failed,
        "goals": [vars(goal) | {"reached": goal.reached} for goal in checked],
    }
    write_json(options.out, document)
    for name, reason in failed.items():
        print(f"\n{name}: {reason}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
