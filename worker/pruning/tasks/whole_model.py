"""A whole model in memory, as the harness asks for one."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer

from worker.pruning.calibration.tokenizer import Tokenizer


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
    """lm-eval's view of a loaded model. longest: tokens of an input, whose beginning is cut off for it, but for
    what the tokenizer puts before every text; `truncated` counts what was cut.

    heard: called with its tokens before each input, one token at a time where a text is made; may raise.
    """
    from lm_eval.models.huggingface import HFLM

    prefix = list(Tokenizer(folder).prefix)

    class Asked(HFLM):  # type: ignore[misc]
        truncated = 0

        def _fitting(self, ids: list[int], room: int) -> list[int]:
            """The end of them, behind the prefix."""
            if len(ids) <= room:
                return ids
            self.truncated += 1
            kept = prefix if ids[: len(prefix)] == prefix and len(prefix) < room else []
            return kept + ids[len(ids) - room + len(kept) :]

        def _loglikelihood_tokens(self, requests: list[Any], *given: Any, **named: Any) -> Any:
            # The last token of all is predicted, and not read.
            cut = [(pair, self._fitting(ids, longest + 1 - len(end)), end) for pair, ids, end in requests]
            return super()._loglikelihood_tokens(cut, *given, **named)

        def tok_batch_encode(
            self, strings: list[str], side: str = "left", left_truncate_len: int | None = None, **_: Any
        ) -> tuple[torch.Tensor, torch.Tensor]:
            """Of one string: one is asked at a time."""
            ids, mask = super().tok_batch_encode(strings, side)
            if left_truncate_len and ids.shape[1] > left_truncate_len:
                ids = torch.tensor([self._fitting(ids[0].tolist(), left_truncate_len)])
                mask = mask[:, :left_truncate_len]
            return ids, mask

    def before(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        ids = inputs[0] if inputs else named.get("input_ids")
        heard(0 if ids is None else ids.numel())

    model.register_forward_pre_hook(before, with_kwargs=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    asked = Asked(
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
