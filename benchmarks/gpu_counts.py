"""What a job at a real model's shapes asks of a GPU: python -m benchmarks.gpu_counts --shape 8b --method admm
With --table a line a shape and method, each against what is allowed of it.

Runs on a pretend device that has shapes alone (tests/pretend_gpu), so it needs neither a GPU nor the memory of the
model: launches, synchronisations and bytes over the bus a block, operations by precision, peak memory, and
seconds that one H100 would take by arithmetic on these counts. A few minutes of one processor.
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.gpu_shapes import BLOCKS, SHAPES, make_hollow
from tests.pretend_gpu import Counts, pretend_gpu
from tests.tiny import text
from worker.pruning import PruningJob, Silent, runner
from worker.pruning.model import experts
from worker.pruning.model.inspection import Sparsity

PRUNING: Final = ("calibration", "methods", "objective", "prune_block", "refine", "report", "state")
PASSES: Final = {"survey": ("allocation",), "pruning": PRUNING, "evaluation": ("evaluation",)}
"""The phases of each pass over the model."""
LOADS: Final = {"survey": 2, "pruning": 1, "evaluation": 2}
"""How often a pass goes over the model: a survey there and back, an evaluation before and after."""
ALLOWED: Final = 1.5
"""Bytes that may go to the GPU for a block, in blocks as stored, while its hidden states stay there."""
ROUTES: Final = experts.routes
TABLE: Final = tuple((shape, method) for shape in ("8b", "70b") for method in ("wanda", "admm"))


@dataclass(frozen=True)
class Counted:
    """A job's counts, over `blocks` blocks of `stored` bytes each, whose hidden states are `hidden` bytes."""

    counts: Counts
    blocks: int
    stored: int
    hidden: int

    def of(self, name: str) -> Counter[str]:
        """Figures of a pass, of all blocks."""
        return sum((own for phase, own in self.counts.figures.items() if _in(phase, name)), Counter())

    def seconds(self, name: str) -> Counter[str]:
        return sum((own for phase, own in self.counts.seconds.items() if _in(phase, name)), Counter())

    def modelled(self, name: str) -> float:
        """Seconds a block by arithmetic on the counts: copies beside the work take none of their own."""
        return sum(value for kind, value in self.seconds(name).items() if kind != "bus beside") / self.blocks

    def bus(self, name: str, way: str) -> float:
        """Bytes a block, in stored blocks. way: uploads or downloads."""
        return self.of(name)[f"{way}_bytes"] / self.blocks / self.stored

    def sent(self, name: str) -> float:
        """Blocks as stored that go to the GPU each time that a pass loads one; at most `ALLOWED`."""
        return self.bus(name, "uploads") / LOADS[name]

    def by_block(self, name: str, figure: str) -> int:
        return self.of(name)[figure] // self.blocks


def _in(phase: str, name: str) -> bool:
    return phase.split("/")[0] in PASSES[name]


def count(folder: Path, shape: str, method: dict[str, Any], sparsity: dict[str, Any], **fields: Any) -> Counted:
    """One job on the pretend device. fields: blocks, samples, length, windows of evaluation, devices."""
    blocks, samples, length = fields.get("blocks", 2), fields.get("samples", 128), fields.get("length", 2048)
    model = make_hollow(folder / "model", shape, blocks)
    (folder / "a.txt").write_text(text(400_000))
    job = {
        "workspace": str(folder / "work"),
        "model": str(model),
        "device": "cuda:0",
        "threads": 2,
        "method": method,
        "sparsity": sparsity,
        "domains": [{"name": "a", "dataset": "a", "calibration": {"samples": samples, "sequence_length": length}}],
        "texts": {"a": {"path": str(folder / "a.txt")}},
        "evaluation": {"sequence_length": 2048, "max_windows": fields.get("windows", 8)},
    }
    job["domains"][0]["evaluation"] = "a"
    with pretend_gpu(shapes=True) as counts, _nothing_is_read(), patch.object(experts, "routes", _evenly):
        runner.run(PruningJob.from_dict(job), Silent())
    width = SHAPES[shape][1]["hidden_size"]
    return Counted(counts, blocks, _stored(model), samples * length * width * 2)


def _stored(model: Path) -> int:
    with (model / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    of_first = [each["data_offsets"] for name, each in header.items() if ".layers.0." in name]
    return sum(end - start for start, end in of_first)


@contextmanager
def _nothing_is_read() -> Iterator[None]:
    """A look at every number of a hollow checkpoint takes minutes, and finds zeros."""
    with patch.object(runner, "inspect", lambda *_: Sparsity(0, 1, None, 0, 1)):
        yield


def _evenly(top_k_index: Tensor, number: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """As `experts.routes`, to every expert alike: what has no numbers sends its tokens nowhere."""
    if top_k_index.device.type == "cpu":  # the dry run's, which has numbers
        yield from ROUTES(top_k_index, number)
        return
    _, order = torch.sort(top_k_index.flatten(), stable=True)
    token, place = order // top_k_index.shape[1], order % top_k_index.shape[1]
    parts = zip(torch.tensor_split(token, number), torch.tensor_split(place, number), strict=True)
    yield from ((index, *part) for index, part in enumerate(parts) if len(part[0]))


def show(found: Counted, shape: str) -> None:
    counts, titles = found.counts, ("launches", "syncs", "up GB", "down GB", "cast GB", "peak GiB")
    print(f"{'phase, of all blocks':26s}" + "".join(f"{title:>10s}" for title in titles) + "  seconds")
    for phase, own in sorted(counts.figures.items()):
        sizes = [own[f"{name}_bytes"] / 1e9 for name in ("uploads", "downloads", "host_cast")]
        sizes.append(counts.peaks[phase] / 2**30)
        spent = " ".join(f"{kind} {value:.2f}" for kind, value in counts.seconds[phase].most_common(5))
        numbers = f"{own['launches']:10d}{own['synchronisations']:10d}" + "".join(
            f"{size:10.2f}" for size in sizes
        )
        print(f"{phase:26s}{numbers}  {spent}")
    for name in PASSES:
        own, blocks = found.of(name), found.blocks
        work = found.modelled(name)
        asked = f"{own['launches'] // blocks} launches, {own['synchronisations'] // blocks} synchronisations"
        whole = f"{BLOCKS[shape]} blocks {work * BLOCKS[shape] / 60:.1f} min"
        bus = f"{found.bus(name, 'uploads'):.2f} blocks up, {found.bus(name, 'downloads'):.2f} down"
        print(f"{name}, a block: {asked}, {bus}, {work:.2f} s modelled; {whole}")
    print(f"a block is {found.stored / 1e9:.2f} GB, its hidden states {found.hidden / 1e9:.2f} GB")


def rows(found: Counted, shape: str, method: str) -> list[str]:
    """Of a table, one a pass: what it asks for a block, and whether that is allowed."""
    lines = []
    for name in PASSES:
        asked = " | ".join(f"{found.by_block(name, figure):,}" for figure in ("launches", "synchronisations"))
        sent, back = found.sent(name), found.bus(name, "downloads")
        verdict = "" if sent <= ALLOWED else f", more than {ALLOWED}"
        sizes = f"{sent:.2f}{verdict} | {back:.2f} | {found.modelled(name):.2f}"
        lines.append(f"| {shape} {method} | {name} | {asked} | {sizes} |")
    return lines


def tabulate(sizes: dict[str, int]) -> None:
    print(
        "| job | pass | launches | synchronisations | blocks up, a load | blocks down | seconds modelled |\n"
        "|---|---|---|---|---|---|---|"
    )
    for shape, method in TABLE:
        with tempfile.TemporaryDirectory() as folder:
            found = count(Path(folder), shape, {"name": method}, {"target": 0.5}, **sizes)
        print("\n".join(rows(found, shape, method)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--method", default="admm")
    parser.add_argument("--allocation", default="error")
    parser.add_argument("--pattern")
    parser.add_argument("--options", type=json.loads, default={}, help="more of the method, as JSON")
    for name, default in (("blocks", 2), ("samples", 128), ("length", 2048), ("windows", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--lines", help="a figure: the lines that ask for most of it, by phase")
    parser.add_argument(
        "--table", action="store_true", help="all of its lines; other shapes and methods are not asked"
    )
    given = parser.parse_args()
    sparsity = {"pattern": given.pattern} if given.pattern else {"target": 0.5, "allocation": given.allocation}
    sizes = {name: getattr(given, name) for name in ("blocks", "samples", "length", "windows")}
    if given.table:
        tabulate(sizes)
        return
    with tempfile.TemporaryDirectory() as folder:
        found = count(Path(folder), given.shape, {"name": given.method, **given.options}, sparsity, **sizes)
    show(found, given.shape)
    for phase in sorted(found.counts.figures) if given.lines else ():
        for line, number in found.counts.worst(phase, given.lines):
            print(f"{phase:26s} {number:>14d} {line}")


if __name__ == "__main__":
    main()
