"""Perplexity over sparsity: several targets in one job beside a job for each.

The model and texts are those of `benchmarks.single_domain`. Prints the perplexities both ways, and what each way
takes of the processor; writes JSON.

    python -m benchmarks.curve --data DIR [--targets 0.5,0.6,0.7] [--effort fast] [--statistics own]
        [--out FILE]
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.model import add_model, read_model
from benchmarks.output import add_out
from benchmarks.protocol import TESTS, Protocol, add_arguments, read_arguments
from benchmarks.rows import METHODS, filled
from benchmarks.single_domain import Shown
from secateur.spec.effort import Effort
from secateur.spec.sparsity import FurtherStatistics
from worker.pruning import PruningJob, run
from worker.pruning.state.atomic import write_json

Figures = dict[str, dict[str, float]]
"""By target, then by test text."""


def measure(
    model: Path, protocol: Protocol, targets: list[float], options: argparse.Namespace
) -> tuple[Figures, float]:
    """The perplexities of one job's models, and its processor seconds."""
    asked: dict[str, Any] = {"target": targets[0], "further": targets[1:]}
    if targets[1:]:
        asked["further_statistics"] = options.statistics
    method, sparsity = filled(METHODS[options.method], asked, options.effort)
    with tempfile.TemporaryDirectory(dir=options.cache) as workspace:
        folder, before = Path(workspace), time.process_time()
        run(PruningJob.from_dict(protocol.request(model, folder, method, sparsity)), Shown())
        seconds = time.process_time() - before
        models = enumerate(targets)
        return {str(each): protocol.perplexity(folder / f"stage-{n:02d}/model") for n, each in models}, seconds


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    add_model(parser)
    parser.add_argument("--method", default="admm", choices=sorted(METHODS))
    parser.add_argument("--effort", type=Effort, default=Effort.fast, choices=list(Effort))
    parser.add_argument(
        "--statistics", type=FurtherStatistics, default=FurtherStatistics.own, choices=list(FurtherStatistics)
    )
    parser.add_argument("--targets", default="0.5,0.6,0.7", help="the first one is the job's own")
    add_out(parser, "curve")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    protocol, model = read_arguments(options), read_model(options)
    targets = [float(each) for each in options.targets.split(",")]
    together, seconds = measure(model, protocol, targets, options)
    alone: Figures = {}
    apart = 0.0
    for target in targets:
        figures, own = measure(model, protocol, [target], options)
        alone |= figures
        apart += own
    print(f"{'target':8}{'in one job':>12}{'by itself':>12}")
    for target in together:
        one, other = (sum(each[target].values()) / len(TESTS) for each in (together, alone))
        print(f"{target:8}{one:12.2f}{other:12.2f}")
    print(f"{'seconds':8}{seconds:12.0f}{apart:12.0f}  ratio {seconds / apart:.2f}", flush=True)
    document: dict[str, Any] = {"together": together, "alone": alone, "seconds": [seconds, apart]}
    document |= {"effort": options.effort, "statistics": options.statistics, "protocol": protocol.identity()}
    write_json(options.out, document)


if __name__ == "__main__":
    main()
