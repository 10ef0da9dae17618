"""Times side by side: ours and the peer's in turn, so that both meet the same machine."""

import statistics
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from benchmarks.measure import Bench, figures
from benchmarks.rows import TIMED, Row, all_rows


def compare_times(bench: Bench, repeats: int, chosen: Collection[Row]) -> list[dict[str, Any]]:
    """One entry a row of ours, printed as it comes: each run's seconds and memory, the ratio of the medians.

    chosen: of these alone, each with its peer.
    """
    rows = {row.name: row for row in all_rows()}
    wanted = {row.name for row in chosen}
    compared = []
    for peer, timed in TIMED.items():
        ours = {name: goal for name, goal in timed.items() if name in wanted}
        if not ours:
            continue
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in (*ours, peer)}
        for number in range(repeats):
            # Whoever goes second may find warmer files or a warmer processor: take turns at it.
            for name in runs if number % 2 == 0 else reversed(runs):
                run = _once(bench, rows[name])
                runs[name].append(run)
                planned = f", planned {run['planned_seconds']:.1f} s" if "planned_seconds" in run else ""
                print(f"{name}: {run['seconds']:.1f} s{planned}", flush=True)
        compared += [
            _entry(name, peer, goal, {each: runs[each] for each in (name, peer)}) for name, goal in ours.items()
        ]
    return compared


def _once(bench: Bench, row: Row) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=bench.cache) as workspace:
        return figures(bench.prune(row, Path(workspace)))


def _entry(ours: str, peer: str, goal: float, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    ratio, processor = (_ratio(runs[ours], runs[peer], name) for name in ("seconds", "processor_seconds"))
    verdict = "reached" if ratio <= goal else "missed"
    print(f"{ours} takes {ratio:.2f} of {peer} ({processor:.2f} by processor); goal {goal}: {verdict}", flush=True)
    return {"ours": ours, "peer": peer, "ratio": ratio, "processor_ratio": processor, "goal": goal, "runs": runs}


def _ratio(ours: list[dict[str, Any]], peers: list[dict[str, Any]], name: str) -> float:
    """Of the medians."""
    mine, theirs = (statistics.median(run[name] for run in runs) for runs in (ours, peers))
    return mine / theirs
