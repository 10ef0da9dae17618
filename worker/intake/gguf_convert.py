"""Child process that turns a GGUF file into a safetensors folder; run by path, it imports nothing of ours.

One JSON object on stdin (`source`, `file`, `target`, `dtype`, `threads`, `parent`), one on stdout: `{}` or
`{"error": {"code", "message"}}`. Everything that libraries print goes to stderr.
"""

import ctypes
import json
import os
import signal
import sys
import traceback
from functools import cache
from pathlib import Path
from typing import Any, Final

_PR_SET_PDEATHSIG: Final = 1
_SYSTEM_ERRORS: Final = (MemoryError, ImportError, OSError)


def main() -> None:
    """Read the request, convert, answer. A system error is an exit code other than 0."""
    answers = os.dup(1)
    os.dup2(2, 1)
    request = json.loads(sys.stdin.buffer.read())
    _die_with(int(request["parent"]))
    answer: dict[str, Any] = {}
    try:
        _convert(request)
    except _SYSTEM_ERRORS:
        raise
    except Exception as error:  # transformers and gguf raise whatever comes when they do not know a file
        traceback.print_exc()
        answer["error"] = {
            "code": "gguf_unsupported",
            "message": "The installed transformers cannot convert this GGUF file "
            f"({type(error).__name__}); register the original safetensors model instead.",
        }
    os.write(answers, json.dumps(answer).encode())


def _die_with(parent: int) -> None:
    """Be killed when the process that started us ends, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the parent is gone")


def _convert(request: dict[str, Any]) -> None:
    import gguf

    source, file, target = request["source"], request["file"], Path(request["target"])
    # transformers parses the file three times and builds the same table of names once a module.
    gguf.GGUFReader = cache(gguf.GGUFReader)
    gguf.get_tensor_name_map = cache(gguf.get_tensor_name_map)
    gguf.GGUFReader(os.path.join(source, file))  # a broken file needs no torch to be refused

    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(int(request["threads"]))
    options: dict[str, Any] = {"gguf_file": file, "dtype": getattr(torch, request["dtype"])}
    # Newer versions may keep the weights packed in GGUF's blocks, which nothing but they can read.
    if packed := getattr(transformers, "GgufConfig", None):
        options["quantization_config"] = packed(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(source, **options)
    _forget_quantisation(model)
    model.to(options["dtype"]).save_pretrained(target)
    AutoTokenizer.from_pretrained(source, gguf_file=file).save_pretrained(target)


def _forget_quantisation(model: Any) -> None:
    """The weights are plain now; with these left, saving refuses and loading would look for the GGUF file."""
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        quantizer.remove_quantization_config(model)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


if __name__ == "__main__":
    main()
