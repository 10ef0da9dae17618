"""The precision policy: process-wide torch settings for the time of a job, and what else decides the last bits of
its result.

How exact products are, whatever the processor. Torch may make float32 products of factors that it rounds (its
precision `medium`: bfloat16 on a processor with AMX, TF32 on a GPU, plain float32 elsewhere). Here all float32
products are exact (`highest`), with two exceptions:

- A Gram of inputs that a layer reads in bfloat16, or of gradients that come in it: they are rounded first, and the
  product of two such numbers is exact in float32, so that `medium` loses nothing (`products_of`). TF32 has 11
  significant bits, bfloat16 has 8.
- Steps that look for something, in a job with fast numerics (`search_products`), are rounded: ADMM's for a mask,
  whose weights are then polished exactly, and those of weighed outputs, whose errors are exact.

Forward passes, and the survey's gradients, are in bfloat16 where a job's forward dtype says so (`evaluate`), by
autocast and never by `medium`: that would also round what a model computes in float32 on purpose, such as the
angles of its positions.

On a GPU, too, sums of products are float32, whatever the factors: cuBLAS may not reduce halves in halves. All of
torch's own operations add up in one order, where they have one (`CUDA_SETTINGS`, `_repeatable`, and `attention`).
"""

import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from operator import attrgetter
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import deterministic

from secateur.spec.job import Numerics
from secateur.spec.request import single_devices
from worker import cuda_environment
from worker.pruning.errors import SpecError, UserError
from worker.pruning.runtime.waiting import settled

_search: ContextVar[str] = ContextVar("search", default="highest")
"""Torch's precision of products that only search."""


CPU: Final = torch.device("cpu")
CUDA_SETTINGS: Final = {
    "cuda.matmul.allow_bf16_reduced_precision_reduction": False,
    "cuda.matmul.allow_fp16_reduced_precision_reduction": False,
    "cuda.matmul.allow_fp16_accumulation": False,
    "cudnn.allow_tf32": False,
    "cudnn.benchmark": False,
    "cudnn.deterministic": True,
}
"""Of torch.backends, for a job on a GPU: sums of products in float32, convolutions as exact as other products, and
no kernel chosen by how long it took."""

without_order: Final[set[str]] = set()
"""Operations of the model that a GPU has had to add up in no fixed order, in this job so far."""
UNORDERED: Final = r"(.+?) does not have a deterministic implementation"
"""How torch says so."""
KERNELS: Final = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Of attention on a GPU, see `attention`."""


@contextmanager
def torch_settings(
    threads: int, numerics: Numerics = Numerics.exact, device: torch.device = CPU
) -> Iterator[None]:
    """Threads pinned (sums depend on how they are split), products as above, no gradients; restored afterwards."""
    token = _search.set("medium" if numerics is Numerics.fast else "highest")
    try:
        with threads_of(threads), torch.no_grad(), products("highest"), _repeatable(device):
            yield
    finally:
        _search.reset(token)


@contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """On a GPU, the same sums in the same order each time. A model's own operation that has no such way runs as it
    is, and is noticed (`without_order`). Elsewhere nothing changes."""
    if device.type != "cuda":
        yield
        return
    mode = torch.get_deterministic_debug_mode()
    fills = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    before = {name: attrgetter(name)(torch.backends) for name in CUDA_SETTINGS}
    try:
        deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.set_deterministic_debug_mode("warn")
        _set_backends(CUDA_SETTINGS)
        with sdpa_kernel(KERNELS), _noticing():
            yield
    finally:
        _set_backends(before)
        torch.set_deterministic_debug_mode(mode)
        deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]


@contextmanager
def in_any_order() -> Iterator[None]:
    """For what no order changes: counts, and values that each go to a place of their own. In torch's fixed order a
    GPU would sort them first, and take many times the memory."""
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("default")
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)


@contextmanager
def _noticing() -> Iterator[None]:
    """Keep the names of operations which torch warns of that they have no fixed order."""
    show = warnings.showwarning

    def notice(message: Warning | str, *rest: Any, **named: Any) -> None:
        if found := re.match(UNORDERED, str(message)):
            if found[1] in without_order:
                return
            without_order.add(found[1])
        show(message, *rest, **named)

    without_order.clear()
    with warnings.catch_warnings():  # which forgets what an earlier job has shown
        warnings.filterwarnings("always", message=UNORDERED)
        warnings.showwarning = notice
        yield


def _set_backends(settings: Mapping[str, bool]) -> None:
    for name, value in settings.items():
        owner, _, attribute = name.rpartition(".")
        setattr(attrgetter(owner)(torch.backends), attribute, value)


def flags(device: torch.device) -> dict[str, str]:
    """What decides how products and sums are made on a device, beside a job's own numerics."""
    if device.type != "cuda":
        return {}
    workspace = os.environ.get(cuda_environment.WORKSPACE, "")
    return {name: str(value) for name, value in CUDA_SETTINGS.items()} | {
        "deterministic_algorithms": "True",
        cuda_environment.WORKSPACE: workspace,
    }


@contextmanager
def threads_of(count: int) -> Iterator[None]:
    """torch computes with so many."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
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


def search_precision(device: torch.device, numerics: Numerics) -> str:
    """What the factors of a search's products are rounded to; torch's `medium` on a CPU, where the processor
    decides whether that is bfloat16 or float32."""
    if numerics is Numerics.exact:
        return "float32"
    return "tf32" if device.type == "cuda" else "medium"


def search_products() -> AbstractContextManager[None]:
    """For products that look for something which exact ones then settle."""
    return products(_search.get())


def pick_device(name: str) -> torch.device:
    """The first of `pick_devices`."""
    return pick_devices(name)[0]


def pick_devices(name: str) -> tuple[torch.device, ...]:
    """`auto` is the first GPU, or the CPU where there is none; `cuda:0,1` several. Raises SpecError for a GPU that
    is not there, for several that are not alike, or where this process has begun to use one in a way that does not
    give the same results again."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        cuda_environment.complete()
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = ("cuda" if count else "cpu") if name == "auto" else name
    devices = tuple(map(torch.device, single_devices(named)))
    on_gpu = devices[0].type == "cuda"
    if on_gpu and max(each.index or 0 for each in devices) >= count:
        raise SpecError("/device", f"is {name}, and torch finds {count} GPUs here: choose cpu, or auto")
    if on_gpu and not cuda_environment.repeats(os.environ):
        setting = f"{cuda_environment.WORKSPACE}={cuda_environment.REPEATABLE[0]}"
        raise SpecError("/device", f"is a GPU that this process began to use without {setting}: set it before")
    if len(devices) > 1 and len(kinds := dict.fromkeys(map(_kind, devices))) > 1:
        said = " and ".join(kinds)
        raise SpecError("/device", f"names GPUs that are not alike, {said}: give them to workers of their own")
    return devices


def _kind(device: torch.device) -> str:
    """The same for GPUs that compute the same bits, and hold as much."""
    found: Any = torch.cuda.get_device_properties(device)
    return f"{found.name} ({found.major}.{found.minor}, {found.total_memory / 2**30:.0f} GiB)"


def as_read(inputs: Tensor) -> Tensor:
    """A layer's inputs as it multiplies them: under autocast rounded to its dtype."""
    if torch.is_autocast_enabled(inputs.device.type):
        return inputs.to(torch.get_autocast_dtype(inputs.device.type))
    return inputs


def all_finite(*values: Tensor) -> bool:
    """A sum is finite only where all its terms are; one that is not may have overflowed, so that each is asked.

    A thirtieth of the time of asking each, and one look at all of them. values: any shapes, a floating dtype, of
    one device.
    """
    sums = torch.stack([each.detach().sum() for each in values])
    return math.isfinite(settled(sums.sum()).item()) or all(bool(torch.isfinite(each).all()) for each in values)


def check_outputs(values: Tensor, whose: str) -> Tensor:
    """The values. Raises UserError `not_finite`: of a model that was read and whose weights are finite, whatever
    comes out of it is the model's own. whose: the part of it that gave them."""
    if not all_finite(values):
        message = f"{whose} gives values that are not finite, with finite weights: the model itself is broken"
        raise UserError("not_finite", message, "/model")
    return values
