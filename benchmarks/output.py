"""Where a benchmark's JSON goes: below `benchmarks/results`, which git leaves alone, or where --out says."""

import argparse
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def add_out(parser: argparse.ArgumentParser, name: str) -> None:
    parser.add_argument("--out", type=Path, default=RESULTS / f"{name}.json")
