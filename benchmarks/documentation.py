"""Python's documentation, short windows, any model: our perplexities, and transformers' own of the same files.

What the tokenizer puts before a text stands before every window. transformers takes the windows from its own
tokenizer and the loss from the whole model at once; nothing of ours has a part in that.

    python -m benchmarks.documentation --model FOLDER [--methods copal,admm] [--sparsity 0.5] [--out FILE]
"""

import argparse
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.output import add_out
from benchmarks.rows import METHODS
from secateur.spec.job import Numerics
from worker.pruning import EvaluationSpec, PruningJob, Silent, Text, perplexities, run
from worker.pruning.state.atomic import write_json

DOMAIN = "documentation"


def write_texts(folder: Path) -> tuple[Path, Path]:
    """Two quarters of Python's documentation, each paragraph once: one to calibrate, one to evaluate."""
    from pydoc_data.topics import topics  # type: ignore[import-not-found, unused-ignore]

    paragraphs = "\n\n".join(topics[name] for name in sorted(topics)).split("\n\n")
    text = "\n\n".join(dict.fromkeys(paragraphs))
    quarter = len(text) // 4
    paths = folder / "calibration.txt", folder / "evaluation.txt"
    for number, path in enumerate(paths):
        path.write_text(text[number * quarter : (number + 1) * quarter], encoding="utf-8")
    return paths


def theirs(model: Path, text: Path, length: int, windows: int) -> float:
    """transformers' perplexity of consecutive windows of `length` tokens, each behind the tokenizer's prefix.

    Raises ValueError for a tokenizer that does not leave the text as it is between what it puts around it.
    """
    tokenizer: Any = AutoTokenizer.from_pretrained(model, local_files_only=True)
    content = text.read_text(encoding="utf-8")
    plain, whole = (tokenizer(content, add_special_tokens=added)["input_ids"] for added in (False, True))
    before = whole.index(plain[0])
    if whole[before : before + len(plain)] != plain:
        raise ValueError("the tokenizer changes a text beyond putting tokens around it")
    prefix, room = whole[:before], length - before
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, local_files_only=True)
    losses = []
    with torch.inference_mode():
        for start in range(0, windows * room, room):
            ids = torch.tensor([prefix + plain[start : start + room]])
            context = max(before, 1)
            logits = loaded(input_ids=ids, use_cache=False).logits[0, context - 1 : -1]
            losses.append(float(functional.cross_entropy(logits.float(), ids[0, context:])))
    return math.exp(math.fsum(losses) / len(losses))


def measured(model: Path, text: Path, options: argparse.Namespace) -> dict[str, float]:
    """One model on disk by both."""
    texts = {DOMAIN: Text(path=text)}
    spec = EvaluationSpec(sequence_length=options.length, max_windows=options.windows)
    # transformers computes in float32, so ours does on every processor.
    found = perplexities(model, texts, spec, threads=options.threads, numerics=Numerics.exact)
    ours = found[DOMAIN].perplexity
    return {"ours": ours, "transformers": theirs(model, text, options.length, options.windows)}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a folder with safetensors and tokenizer")
    parser.add_argument("--methods", default="copal,admm", help=f"comma-separated, of: {', '.join(METHODS)}")
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--samples", type=int, default=32, help="calibration windows")
    parser.add_argument("--windows", type=int, default=16, help="evaluation windows")
    parser.add_argument("--length", type=int, default=256, help="tokens of each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-dense", action="store_true")
    add_out(parser, DOMAIN)
    return parser.parse_args()


def pruned(name: str, text: Path, workspace: Path, options: argparse.Namespace) -> Path:
    """The model folder that a method leaves."""
    windows = {"samples": options.samples, "sequence_length": options.length}
    request = {
        "workspace": str(workspace),
        "model": str(options.model),
        "threads": options.threads,
        "method": METHODS[name],
        "sparsity": {"target": options.sparsity},
        "domains": [{"name": DOMAIN, "dataset": DOMAIN, "calibration": windows}],
        "texts": {DOMAIN: {"path": str(text)}},
    }
    run(PruningJob.from_dict(request), Silent())
    return workspace / "stage-00/model"


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        calibration, evaluation = write_texts(Path(scratch))
        for name in ([] if options.no_dense else ["dense"]) + options.methods.split(","):
            model = options.model
            if name != "dense":
                model = pruned(name, calibration, Path(scratch) / name, options)
            rows[name] = measured(model, evaluation, options)
            print(f"{name:14}{rows[name]['ours']:11.3f}{rows[name]['transformers']:11.3f}", flush=True)
    settings = {name: value for name, value in vars(options).items() if name not in ("model", "out")}
    write_json(options.out, {"rows": rows, "settings": settings})


if __name__ == "__main__":
    main()
