"""Does the engine's memory grow with the number of blocks? Peak anonymous memory at N and at 2N blocks.

The models are Llamas with random bfloat16 weights, written shard by shard; the smaller one, which is the first
half of the larger, has a billion parameters. The real engine process prunes them with Wanda and with a few ADMM
steps on a few short windows while its RssAnon is sampled. Prints a table and writes JSON; exits with 1 when the
peak grows by more than the limit. About 12 GB of disk, removed at the end unless --cache names a folder for the
models.

    python -m benchmarks.memory [--blocks 20] [--methods wanda,admm] [--cache DIR] [--out FILE]
"""

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from benchmarks.output import add_out
from worker.attempt.engine_process import EngineProcess
from worker.isolation.child import END
from worker.model_files.choose import INDEX
from worker.pruning.state.atomic import write_json, write_tensors

LIMIT = 1.05
"""Doubling the blocks may raise the peak to this multiple."""
SECONDS_BETWEEN = 0.02
ZERO = "0"
METHODS: dict[str, dict[str, Any]] = {
    "wanda": {"name": "wanda"},
    "admm": {"name": "admm", "admm": {"iterations": 2, "mask_steps": 1, "polish_steps": 0}},
}


def make_models(folder: Path, options: argparse.Namespace) -> dict[int, Path]:
    """A model of N and one of 2N blocks, which share the files of the first N."""
    larger = folder / str(2 * options.blocks)
    made = {options.blocks: folder / str(options.blocks), 2 * options.blocks: larger}
    for blocks, model in made.items():
        model.mkdir(parents=True, exist_ok=True)
        config = _config(blocks, options)
        config.save_pretrained(model)
        _tokenizer(options.vocabulary).save_pretrained(model)
        places: dict[str, str] = {}
        for number in range(-1, blocks):
            name = f"part-{number + 1:04d}.safetensors"
            shapes = _shapes(config, number)
            if not (larger / name).exists():
                write_tensors(larger / name, _random(shapes, number))
            if not (model / name).exists():
                os.link(larger / name, model / name)
            places.update(dict.fromkeys(shapes, name))
        write_json(model / INDEX, {"metadata": {}, "weight_map": places})
    return made


def _config(blocks: int, options: argparse.Namespace) -> LlamaConfig:
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=options.vocabulary,
        hidden_size=options.hidden,
        intermediate_size=options.intermediate,
        num_hidden_layers=blocks,
        num_attention_heads=options.hidden // 128,
        num_key_value_heads=options.hidden // 128,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        dtype="bfloat16",
    )


def _shapes(config: LlamaConfig, block: int) -> dict[str, tuple[int, ...]]:
    """Tensors of one block; of everything else for block −1."""
    hidden, inner = config.hidden_size, config.intermediate_size
    if block < 0:
        return {"model.embed_tokens.weight": (config.vocab_size, hidden), "model.norm.weight": (hidden,)}
    inside: dict[str, tuple[int, ...]] = {f"self_attn.{name}_proj": (hidden, hidden) for name in "qkvo"}
    inside |= {"mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner)}
    inside |= {"input_layernorm": (hidden,), "post_attention_layernorm": (hidden,)}
    return {f"model.layers.{block}.{name}.weight": shape for name, shape in inside.items()}


def _random(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed + 1)
    return {
        name: torch.ones(shape).bfloat16()
        if len(shape) == 1
        else torch.empty(shape, dtype=torch.bfloat16).normal_(std=0.02, generator=draw)
        for name, shape in shapes.items()
    }


def _tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """One token a number, separated by blanks."""
    words = Tokenizer(models.WordLevel({str(number): number for number in range(vocabulary)}, unk_token=ZERO))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, eos_token=ZERO)


def request(model: Path, workspace: Path, method: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """An engine request for a few short windows of random tokens."""
    draw = random.Random(0)
    text = workspace / "text.txt"
    text.write_text(" ".join(str(draw.randrange(1, options.vocabulary)) for _ in range(10_000)))
    calibration = {
        "samples": options.windows,
        "sequence_length": 128,
        "held_out": 0.0,
    }
    return {
        "workspace": str(workspace),
        "model": str(model),
        "device": "cpu",
        "threads": options.threads,
        "method": method,
        "sparsity": {"target": 0.5},
        "domains": [{"name": "random", "dataset": "random", "calibration": calibration, "evaluation": "random"}],
        "texts": {"random": {"path": str(text)}},
        "evaluation": {"sequence_length": 128, "max_windows": options.windows},
    }


def anonymous_bytes(pid: int) -> int:
    """RssAnon of a process: neither mapped files nor the page cache; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


def measure(model: Path, folder: Path, method: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Prune in a folder that is removed afterwards: peak of the engine's anonymous memory, in all, by phase
    and by block. The first block's has all that goes before it."""
    peaks: dict[str, int] = {}
    blocks, since = [], 0
    with tempfile.TemporaryDirectory(dir=folder) as scratch, _engine(Path(scratch), options.threads) as engine:
        began = time.monotonic()
        engine.say(request(model, Path(scratch), method, options))
        phase = "starting"
        while (message := engine.hear(SECONDS_BETWEEN)) is not END:
            now = anonymous_bytes(engine.pid)
            peaks[phase], since = max(peaks.get(phase, 0), now), max(since, now)
            kind = message["type"] if message else None
            if message and kind == "failed":
                sys.exit(f"the engine failed: {message['message']}\n{message.get('detail', '')}")
            if message and kind == "progress":
                phase = message["phase"]
                print(f"\r  {phase} {message['fraction']:4.0%}   ", end="", file=sys.stderr, flush=True)
            if message and kind == "block":
                blocks.append(since)
                since = 0
                engine.say({"type": "ack", "stage": message["stage"], "block": message["block"]})
            if message and kind == "output":
                engine.say({"type": "ack", "output": True})
                break
        else:
            sys.exit("the engine ended without a result")
        seconds = time.monotonic() - began
    return {
        "peak_bytes": max(peaks.values()),
        "peak_bytes_by_phase": peaks,
        "peak_bytes_by_block": blocks,
        "seconds": round(seconds, 1),
    }


@contextmanager
def _engine(workspace: Path, threads: int) -> Iterator[EngineProcess]:
    engine = EngineProcess(workspace, threads)
    try:
        engine.listen(lambda line: print(line, file=sys.stderr))
        yield engine
    finally:
        engine.finish(grace=5)


def run(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    made = make_models(folder, options)
    parameters = {
        blocks: sum(
            torch.Size(shape).numel()
            for number in range(-1, blocks)
            for shape in _shapes(_config(blocks, options), number).values()
        )
        for blocks in made
    }
    print(f"{'':8}{'blocks':>8}{'parameters':>14}{'peak RssAnon':>15}{'ratio':>8}{'seconds':>9}", flush=True)
    rows: dict[str, Any] = {}
    for name in options.methods.split(","):
        found: dict[str, Any] = {}
        for blocks, model in made.items():
            row = measure(model, folder, METHODS[name], options) | {"parameters": parameters[blocks]}
            found[str(blocks)] = row
            ratio = row["peak_bytes"] / found[str(options.blocks)]["peak_bytes"]
            figures = f"{parameters[blocks]:14,}{row['peak_bytes'] / 2**20:11.0f} MiB{ratio:8.3f}"
            print(f"\r{name:8}{blocks:8}{figures}{row['seconds']:9.0f}", flush=True)
        rows[name] = found | {"ratio": ratio}
    return rows


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=20, help="N; the other model has twice as many")
    parser.add_argument("--hidden", type=int, default=2048, help="a multiple of 128")
    parser.add_argument("--intermediate", type=int, default=5504)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--methods", default="wanda,admm", help=f"comma-separated, of: {', '.join(METHODS)}")
    parser.add_argument("--windows", type=int, default=4, help="of 128 tokens, to calibrate and to evaluate on")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--cache", type=Path, help="keep the models here for the next time")
    add_out(parser, "memory")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.cache or Path(temporary)
        shape = f"{options.hidden}-{options.intermediate}-{options.vocabulary}"
        rows = run(folder / shape, options)
    document = {"rows": rows, "limit": LIMIT, "torch": torch.__version__, "threads": options.threads}
    write_json(options.out, document)
    if any(row["ratio"] > LIMIT for row in rows.values()):
        sys.exit(f"the peak grew by more than {LIMIT - 1:.0%}")


if __name__ == "__main__":
    main()
