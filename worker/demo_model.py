"""Look at a downloaded checkpoint as its user would: count zeros, load it, let it write.

A process of its own (`python -m worker.demo_model '<request>'`, answer as JSON in a file), because loading a
model takes memory and prints. Needs the extra `worker`.
"""

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer


@dataclass(frozen=True)
class Request:
    """dense: the GGUF file; pruned: the downloaded model folder; answer: the file to write."""

    dense: str
    pruned: str
    answer: str
    prompts: list[str]
    new_tokens: int = 24


@dataclass
class Answer:
    """zeros: per tensor of the checkpoint; texts: per prompt, by dense and by pruned model."""

    zeros: dict[str, int] = field(default_factory=dict)
    dense: list[str] = field(default_factory=list)
    pruned: list[str] = field(default_factory=list)


def main(request: Request) -> None:
    """Answer the request."""
    pruned = Path(request.pruned)
    dense = Path(request.dense)
    answer = Answer(zeros=count_zeros(pruned))
    tokenizer = AutoTokenizer.from_pretrained(pruned)
    # float32, because many processors only emulate bfloat16.
    model = AutoModelForCausalLM.from_pretrained(pruned, dtype=torch.float32)
    answer.pruned = _write_on(model, tokenizer, request)
    del model
    model = AutoModelForCausalLM.from_pretrained(dense.parent, gguf_file=dense.name, dtype=torch.float32)
    answer.dense = _write_on(model, tokenizer, request)
    Path(request.answer).write_text(json.dumps(asdict(answer)))


def count_zeros(folder: Path) -> dict[str, int]:
    """Exact zeros of every matrix in a folder's shards."""
    zeros = {}
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dict
                tensor = tensors.get_tensor(name)
                zeros[name] = int((tensor == 0).sum())
    return zeros


def _write_on(model: Any, tokenizer: Any, request: Request) -> list[str]:
    """Greedy continuations."""
    texts = []
    for prompt in request.prompts:
        inputs = tokenizer(prompt, return_tensors="pt")
        output = model.generate(
            **inputs, max_new_tokens=request.new_tokens, do_sample=False, pad_token_id=tokenizer.eos_token_id
        )
        texts.append(tokenizer.decode(output[0][inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    return texts


if __name__ == "__main__":
    main(Request(**json.loads(sys.argv[1])))
