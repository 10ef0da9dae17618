"""Wall times side by side: ours and the peer's in turn, so that both meet the same machine."""

import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import Bench, figures
from benchmarks.rows import PAIRS, Row, all_rows

GOAL = 0.5
"""Ours takes at most this share of the peer's time."""


def compare_times(bench: Bench, repeats: int) -> list[dict[str, Any]]:
    """One entry a pair, printed as it comes: every run's seconds and memory, and the ratio of the medians."""
    rows = {row.name: row for row in all_rows()}
    compared = []
    for ours, peer in PAIRS:
        runs: dict[str, list[dict[str, Any]]] = {ours: [], peer: []}
        for number in range(repeats):
            # Whoever goes second may find warmer files or a warmer processor: take turns at it.
            for name in (ours, peer) if number % 2 == 0 else (peer, ours):
                runs[name].append(_once(bench, rows[name]))
                print(f"{name}: {runs[name][-1]['seconds']:.1f} s", flush=True)
        compared.append(_entry(ours, peer, runs))
    return compared


def _once(bench: Bench, row: Row) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=bench.cache) as workspace:
        return figures(bench.prune(row, Path(workspace)))


def _entry(ours: str, peer: str, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    medians = {name: statistics.median(run["seconds"] for run in found) for name, found in runs.items()}
    ratio = medians[ours] / medians[peer]
    verdict = "reached" if ratio <= GOAL else "missed"
    print(f"{ours} takes {ratio:.2f} of {peer}; goal {GOAL}: {verdict}", flush=True)
    return {"ours": ours, "peer": peer, "ratio": ratio, "goal": GOAL, "runs": runs}
