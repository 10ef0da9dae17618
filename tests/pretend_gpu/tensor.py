"""A tensor on a pretend device: a real one inside, which says that it is elsewhere."""

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn, Self

import torch
from torch import Tensor

from tests.pretend_gpu.machine import Machine, is_on, machine
from tests.pretend_gpu.streams import current_stream, freed, usage_of

NESTED: Final = (Tensor, tuple, list, dict)
_references: dict[int, list[int]] = {}
"""By storage: how many tensors hold it."""


class GpuTensor(Tensor):
    """C++ takes it for the CPU's, Python for a GPU's. answer: the operation that made it, for made-up values."""

    held: Tensor
    place: torch.device
    answer: str

    @staticmethod
    def __new__(cls, held: Tensor, place: torch.device, answer: str = "") -> Self:
        found: Self = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device="cpu",
            requires_grad=False,
        )
        return found

    def __init__(self, held: Tensor, place: torch.device, answer: str = "") -> None:
        self.held, self.place, self.answer = held, place, answer
        _keep(self, machine())

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from tests.pretend_gpu.dispatch import dispatch

        return dispatch(func, args, kwargs or {})

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.place

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return False

    def get_device(self) -> int:
        return int(self.place.index)

    def data_ptr(self) -> int:
        """Meta tensors have no address: their storage's name stands for it."""
        if self.held.device.type != "meta":
            return self.held.data_ptr()
        return _key(self.held) + self.held.storage_offset() * self.held.element_size()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.held.untyped_storage()

    def numpy(self, **_: Any) -> NoReturn:
        raise TypeError(
            f"can't convert {self.place} device type tensor to numpy. "
            "Use Tensor.cpu() to copy the tensor to host memory first."
        )

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        self.numpy()

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        return moved(self, *args, **kwargs)

    def cpu(self, *_: Any, **__: Any) -> Tensor:
        return moved(self, "cpu")

    def cuda(self, device: Any = None, non_blocking: bool = False, **_: Any) -> Tensor:
        return moved(self, "cuda" if device is None else device, non_blocking=non_blocking)

    def is_pinned(self, *_: Any) -> bool:
        return False

    def pin_memory(self, *_: Any) -> NoReturn:
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")

    def record_stream(self, stream: Any) -> None:
        usage_of(self.held, stream).recorded.add(stream)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise RuntimeError(f"a tensor on {self.place} is not to be pickled: copy it to the host first")

    def __deepcopy__(self, memo: Any) -> Tensor:
        return self.detach().clone()

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"GpuTensor({tuple(self.shape)}, {self.dtype}, {self.place})"


def moved(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`Tensor.to`, which C++ would answer for the CPU."""
    device, dtype, copy = kwargs.pop("device", None), kwargs.pop("dtype", None), kwargs.pop("copy", False)
    positions = iter(args)
    for each in positions:
        if isinstance(each, Tensor):
            device, dtype = each.device, each.dtype
        elif isinstance(each, torch.dtype):
            dtype = each
        elif isinstance(each, bool):
            kwargs["non_blocking"], copy = each, next(positions, copy)
        elif each is not None:
            device = machine().device(each) if isinstance(each, int) else torch.device(each)
    place = tensor.device if device is None else machine().device(device) or torch.device(device)
    if place == tensor.device and dtype in (None, tensor.dtype) and not copy:
        return tensor
    with asked_for():
        found: Tensor = torch.ops.aten._to_copy.default(
            tensor, dtype=dtype or tensor.dtype, device=place, non_blocking=kwargs.get("non_blocking", False)
        )
    return found


_asked = threading.local()


@contextmanager
def asked_for() -> Iterator[None]:
    """While an operation's device is what the caller named, not what C++ takes the tensor's own for."""
    before = is_asked()
    _asked.now = True
    try:
        yield
    finally:
        _asked.now = before


def is_asked() -> bool:
    return bool(getattr(_asked, "now", False))


def on(found: Any, place: torch.device, answer: str = "") -> Any:
    """What an operation gave, put on a device."""
    inner = machine().inner.type

    def put(each: Tensor) -> Tensor:
        if isinstance(each, GpuTensor) or each.device.type != inner:
            return each
        return GpuTensor(each, place, answer)

    return mapped(put, found)


def held(tree: Any) -> Any:
    """What is inside."""
    return mapped(lambda each: each.held if isinstance(each, GpuTensor) else each, tree)


def mapped(call: Callable[[Tensor], Any], tree: Any) -> Any:
    """Every tensor of an operation's arguments or results through `call`."""
    if isinstance(tree, Tensor):
        return call(tree)
    if isinstance(tree, tuple | list):
        return type(tree)([mapped(call, each) if isinstance(each, NESTED) else each for each in tree])
    if isinstance(tree, dict):
        return {key: mapped(call, each) for key, each in tree.items()}
    return tree


def tensors_in(*trees: Any) -> list[Tensor]:
    found: list[Tensor] = []
    for tree in trees:
        mapped(found.append, tree)
    return found


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _keep(tensor: GpuTensor, owner: Machine) -> None:
    """Count the storage as long as any tensor holds it."""
    key, size, device = _key(tensor.held), tensor.held.untyped_storage().nbytes(), tensor.place
    if key in _references:
        _references[key][0] += 1
    else:
        owner.allocate(device, size)
        _references[key] = [1, size]
    usage = usage_of(tensor.held, current_stream(device))

    def gone() -> None:
        _references[key][0] -= 1
        if not _references[key][0]:
            del _references[key]
            owner.counts.free(device.index, size)
            if is_on(owner):
                freed(usage)

    weakref.finalize(tensor, gone).atexit = False
