"""A whole model in memory, as the harness asks for one."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer


def load_whole(kind: type[nn.Module], folder: Path, device: torch.device, dtype: str) -> Any:
    """The model in `folder`, in the dtype of forward passes. kind: its class, as a graph has found it."""
    loader: Any = kind
    model = loader.from_pretrained(
        folder,
        dtype=getattr(torch, dtype),
        device_map={"": device},
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        experts_implementation="eager",
    )
    return model.eval().requires_grad_(False)


def for_harness(model: Any, folder: Path, longest: int, heard: Callable[[int], None]) -> Any:
    """lm-eval's view of a loaded model. longest: tokens of an input, whose beginning is cut off for it.

    heard: called with its tokens before each input, one token at a time where a text is made; may raise.
    """
    from lm_eval.models.huggingface import HFLM

    def before(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        ids = inputs[0] if inputs else named.get("input_ids")
        heard(0 if ids is None else ids.numel())

    model.register_forward_pre_hook(before, with_kwargs=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    asked = HFLM(
        pretrained=model,
        tokenizer=tokenizer,
        backend="causal",
        max_length=longest,
        truncation=True,
        batch_size=1,
        softmax_dtype=torch.float32,
    )
    for name in ("loglikelihood", "loglikelihood_rolling", "generate_until"):
        # Its bar, drawn ten times a second for hours, would be the job's log.
        setattr(asked, name, partial(getattr(asked, name), disable_tqdm=True))
    return asked
