"""Process-wide torch settings for the time of a job, and what else decides the last bits of its result."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def torch_settings(threads: int) -> Iterator[None]:
    """Threads pinned (sums depend on how they are split), fast forwards, no gradients; restored afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad(), products("medium"):
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def one_thread() -> Iterator[None]:
    """For factorisations: between their many small steps threads mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def products(precision: str) -> Iterator[None]:
    """float32 products at a precision: highest for solving, medium (bfloat16 or TF32 inside) for forwards."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def plain_attention(device: torch.device) -> Iterator[None]:
    """On a GPU, attention by its plain formula: the backward passes of the fused kernels add up in no fixed order,
    so that the same job would not give the same bytes. Elsewhere nothing changes."""
    if device.type != "cuda":
        yield
        return
    with sdpa_kernel(SDPBackend.MATH):
        yield


def pick_device(name: str) -> torch.device:
    """`auto` is the first GPU, or the CPU where there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def pinned(threads: int, batch_tokens: int, device: torch.device, dtype: str) -> dict[str, Any]:
    """What two runs of one job must have in common to give the same bytes. dtype: of forward passes."""
    processor = f"{processor_model()}, {torch.backends.cpu.get_cpu_capability()}"
    if device.type == "cuda":
        processor = torch.cuda.get_device_name(device)
    return {
        "threads": threads,
        "batch_tokens": batch_tokens,
        "device": device.type,
        "processor": processor,
        "dtype": {"forward": dtype, "statistics": "float32"},
        "versions": versions(),
    }


def processor_model() -> str:
    """What libraries of linear algebra choose their code by, beside the instructions that a processor has."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Of Python and of every library that computes or writes."""
    names = ("torch", "transformers", "safetensors", "tokenizers", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
