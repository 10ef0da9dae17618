"""Ours and others' side by side: perplexity, wall time and peak memory after pruning SmolLM2-135M on C4.

    python -m benchmarks.compare --data DIR [--rows '50%/*,dense'] [--out FILE]
    python -m benchmarks.compare --data DIR --ratio [--repeats 3] [--rows '50%/admm:fast']

DIR holds wikitext2/test.txt, ptb/test.txt, c4/calibration.jsonl and c4/test.jsonl. Prints a table and writes JSON;
"planned" are the seconds that a plan of the row says on this machine. Rows are kept in --cache and not measured
again while nothing that determines them has changed; --again does.
--ratio runs ours and the peer's in turn and prints how their wall times compare; nothing of it is cached.
The peers' environment (llmcompressor, pinned in peers.txt) is made in --cache on first use.
"""

import argparse
import os
import statistics
import sys
from typing import Any

import torch

from benchmarks.child import ChildFailed
from benchmarks.machine import machine
from benchmarks.measure import Bench
from benchmarks.model import add_model, read_model
from benchmarks.output import add_out
from benchmarks.protocol import TESTS, add_arguments, read_arguments
from benchmarks.ratio import compare_times
from benchmarks.results import Results
from benchmarks.rows import Row, choose
from worker.pruning import PruningError
from worker.pruning.evaluation.losses import native_dtype
from worker.pruning.state.atomic import write_json

COLUMNS = ("row", *TESTS, "mean", "sparsity", "seconds", "planned", "peak RSS", "peak anon")


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    add_model(parser)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: what the processor multiplies")
    parser.add_argument("--rows", default="*", metavar="GLOBS", help="comma-separated, of PATTERN/METHOD")
    parser.add_argument("--list", action="store_true", help="print the rows' names and stop")
    parser.add_argument("--again", action="store_true", help="measure cached rows anew")
    parser.add_argument("--ratio", action="store_true", help="wall times of ours and the peer's, in turn")
    parser.add_argument("--repeats", type=int, default=2, help="of --ratio")
    add_out(parser, "compare")
    return parser.parse_args(given)


def line(name: str, row: dict[str, Any]) -> str:
    """One row of a Markdown table."""
    perplexities = [row["perplexity"][text] for text in TESTS]
    cells = [name, *(f"{value:.2f}" for value in perplexities), f"{statistics.fmean(perplexities):.2f}"]
    if "seconds" in row:
        sizes = (f"{row[size] / 2**20:.0f} MiB" for size in ("peak_rss_bytes", "peak_anon_bytes"))
        planned = f"{row['planned_seconds']:.1f}" if "planned_seconds" in row else ""
        cells += [f"{row['sparsity']:.4%}", f"{row['seconds']:.1f}", planned, *sizes]
    else:
        cells += [""] * (len(COLUMNS) - len(cells))
    return "| " + " | ".join(cells) + " |"


def fill(bench: Bench, rows: list[Row], again: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """Every row's figures, printed as they come, and the errors of those that failed."""
    results = Results(bench.cache / "rows")
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS), flush=True)
    found: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for row in rows:
        key = bench.key(row)
        result = None if again else results.find(key)
        if result is None:
            load = os.getloadavg()[0]
            try:
                result = bench.measure(row) | {"load_before": load}
            except (ChildFailed, PruningError) as error:
                failed[row.name] = str(error)
                print(f"| {row.name} | failed |", flush=True)
                continue
            results.keep(key, result)
        found[row.name] = result
        print(line(row.name, result), flush=True)
    return found, failed


def main(given: list[str] | None = None) -> int:
    options = arguments(given)
    try:
        chosen = choose(options.rows)
    except ValueError as error:
        sys.exit(str(error))
    rows = [row for row in chosen if row.known]
    for row in chosen:
        if row not in rows:
            print(f"left out, not in this engine: {row.name}", file=sys.stderr)
    if options.list:
        print("\n".join(row.name for row in rows))
        return 0
    protocol = read_arguments(options)
    dtype = options.dtype or native_dtype(torch.device("cpu"))
    model = read_model(options, getattr(torch, dtype))
    bench = Bench(model, dtype, options.cache, protocol)
    document: dict[str, Any] = {"machine": machine(), "dtype": dtype, "protocol": protocol.identity()}
    failed: dict[str, str] = {}
    if options.ratio:
        document["ratios"] = compare_times(bench, options.repeats, rows)
    else:
        document["rows"], failed = fill(bench, rows, options.again)
        document["failed"] = failed
    write_json(options.out, document)
    for name, reason in failed.items():
        print(f"\n{name}: {reason}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
