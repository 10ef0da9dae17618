"""llmcompressor as a measured child: PYTHON peer_llmcompressor.py REQUEST ANSWER, in the peers' own environment.

Nothing of ours is imported. The clock runs from reading the windows to the saved model: it includes loading,
calibration, solving and saving; not Python's imports, and not tokenising, which has been done for it.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy
import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

MODIFIERS = {"llmcompressor-sparsegpt": SparseGPTModifier, "llmcompressor-wanda": WandaPruningModifier}


def prune(request: dict[str, Any]) -> None:
    """Its own defaults but for what the protocol says: rates, windows, dtype; every linear layer but the head."""
    windows = numpy.load(request["windows"]).tolist()
    length = len(windows[0])
    rows = Dataset.from_dict({"input_ids": windows, "attention_mask": [[1] * length for _ in windows]})
    model = AutoModelForCausalLM.from_pretrained(request["model"], dtype=getattr(torch, request["dtype"]))
    modifier = MODIFIERS[request["algorithm"]](
        sparsity=request["target"],
        mask_structure=request["mask_structure"],
        targets=["Linear"],
        ignore=["re:.*lm_head"],
    )
    oneshot(
        model=model,
        processor=AutoTokenizer.from_pretrained(request["model"]),
        dataset=rows,
        recipe=modifier,
        max_seq_length=length,
        num_calibration_samples=len(windows),
        shuffle_calibration_samples=False,
    )
    model.save_pretrained(request["output"], save_compressed=False)


def main() -> None:
    asked, answered = map(Path, sys.argv[1:])
    request = json.loads(asked.read_text())
    torch.set_num_threads(request["threads"])
    # The architecture's module is imported by its first use; that is an import, too.
    _ = AutoModelForCausalLM._model_mapping[type(AutoConfig.from_pretrained(request["model"]))]
    began, before = time.monotonic(), time.process_time()
    prune(request)
    seconds, processor = time.monotonic() - began, time.process_time() - before
    answer = {"seconds": seconds, "processor_seconds": processor, "model": request["output"]}
    answered.write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
