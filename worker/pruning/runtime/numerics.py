"""Process-wide torch settings for the time of a job, and what else decides the last bits of its result.

How exact products are, whatever the processor. Torch may make float32 products of factors that it rounds (its
precision `medium`: bfloat16 on a processor with AMX, TF32 on a GPU, plain float32 elsewhere). Here all float32
products are exact (`highest`), with two exceptions:

- A Gram of inputs that a layer reads in bfloat16: they are rounded first, and the product of two such numbers is
  exact in float32, so that `medium` loses nothing (`products_of`).
- The steps by which ADMM looks for a mask, in a job with fast numerics (`search_products`): they are rounded, and
  what they find is polished exactly.

Forward passes, and the survey's gradients, are in bfloat16 where a job's forward dtype says so (`evaluate`), by
autocast and never by `medium`: that would also round what a model computes in float32 on purpose, such as the
angles of its positions.
"""

import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from secateur.spec.job import Numerics
from worker.pruning.errors import SpecError, UserError

_search: ContextVar[str] = ContextVar("search", default="highest")
"""Torch's precision of products that only search."""


@contextmanager
def torch_settings(threads: int, numerics: Numerics = Numerics.exact) -> Iterator[None]:
    """Threads pinned (sums depend on how they are split), products as above, no gradients; restored afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    token = _search.set("medium" if numerics is Numerics.fast else "highest")
    try:
        with torch.no_grad(), products("highest"):
            yield
    finally:
        _search.reset(token)
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
    """float32 products at one of torch's precisions: highest, high or medium."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def products_of(dtype: torch.dtype) -> AbstractContextManager[None]:
    """For products of float32 tensors whose values are all of `dtype`: as fast as exact ones can be."""
    return products("medium" if dtype is torch.bfloat16 else "highest")


def search_products() -> AbstractContextManager[None]:
    """For products that look for something which exact ones then settle."""
    return products(_search.get())


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
    """`auto` is the first GPU, or the CPU where there is none. Raises SpecError for a GPU that is not there."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = torch.device(("cuda" if count else "cpu") if name == "auto" else name)
    if device.type == "cuda" and (device.index or 0) >= count:
        raise SpecError("/device", f"is {name}, and torch finds {count} GPUs here: choose cpu, or auto")
    return device


def pinned(
    threads: int, batch_tokens: int, device: torch.device, dtype: str, numerics: Numerics
) -> dict[str, Any]:
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
        "numerics": numerics,
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


def all_finite(values: Tensor) -> bool:
    """A sum is finite only where all its terms are; one that is not may have overflowed, so that each is asked.

    A thirtieth of the time of asking each. values: any shape, a floating dtype.
    """
    values = values.detach()
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


def check_outputs(values: Tensor, whose: str) -> Tensor:
    """The values. Raises UserError `not_finite`: of a model that was read and whose weights are finite, whatever
    comes out of it is the model's own. whose: the part of it that gave them."""
    if not all_finite(values):
        message = f"{whose} gives values that are not finite, with finite weights: the model itself is broken"
        raise UserError("not_finite", message, "/model")
    return values
