"""Every operation: refused as CUDA refuses it, run on what is inside, counted."""

from functools import cache
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.pretend_gpu import shapes
from tests.pretend_gpu.costs import ATTENTION_BACKWARD, UNORDERED, VIEWS, cost
from tests.pretend_gpu.counts import where
from tests.pretend_gpu.machine import machine
from tests.pretend_gpu.streams import host_waits, launched
from tests.pretend_gpu.tensor import GpuTensor, held, is_asked, mapped, on, tensors_in
from tests.pretend_gpu.transfers import between, copy_into, mark_pinned, to_device, to_host

aten = torch.ops.aten
INDEXED: Final = ("index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_")
UNKNOWN_SIZE: Final = (
    "nonzero",
    "argwhere",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "bincount",
)
"""Operations whose result's size the host must be told."""
CHECKED: Final = ("_linalg_check_errors", "linalg_eigh", "_linalg_eigh", "_linalg_svd", "is_nonzero")
"""Operations that read what they found back to the host."""


class GpuOperations(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and the look whether it is costs more than the rest

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if GpuTensor in types or kwargs:
            return dispatch(func, args, kwargs or {})
        return func(*args)


def dispatch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = _name(func)
    tensors = tensors_in(args, kwargs)
    gpus = [each for each in tensors if isinstance(each, GpuTensor)]
    if func is torch.ops.prim.device.default:
        return args[0].device
    if name == "_to_copy":
        return _converted(func, args[0], dict(kwargs))
    place = machine().device(kwargs.get("device"))
    if not gpus:
        return (
            func(*args, **kwargs) if place is None and not kwargs.get("pin_memory") else _made(func, args, kwargs)
        )
    if name == "copy_" and len({each.device for each in tensors}) == 2:
        return copy_into(
            args[0],
            args[1],
            waits=not (kwargs or dict(enumerate(args))).get("non_blocking", len(args) > 2 and args[2]),
        )
    if name in ("_local_scalar_dense", "equal"):
        return _read_by_host(func, name, args)
    if name == "index_put" and not isinstance(args[0], GpuTensor):
        # Of the gradient of an index: zeros whose options C++ took for the CPU's.
        args = (GpuTensor(args[0] if not machine().shapes else args[0].to("meta"), gpus[0].place), *args[1:])
        tensors, gpus = [args[0], *gpus], [args[0], *gpus]
    _check(func, name, args, tensors)
    if kwargs.get("device") is not None and place is None and is_asked():
        return func(*held(args), **held(kwargs))  # such as zeros_like of a device's tensor, on the host
    return _run(func, name, args, kwargs, gpus, place or gpus[0].place)


@cache
def _in_place(func: Any) -> bool:
    """Whether an operation writes to its first argument."""
    alias = func._schema.arguments[0].alias_info if func._schema.arguments else None
    return alias is not None and alias.is_write


@cache
def _name(func: Any) -> str:
    return str(func._schema.name.split("::")[1])


def _run(
    func: Any, name: str, args: Any, kwargs: dict[str, Any], gpus: list[GpuTensor], place: torch.device
) -> Any:
    unknown = _size_unknown(name, args)
    if unknown or name in CHECKED:
        _waits(place)
    if unknown and machine().shapes and name != "index_put_":
        return on(shapes.of_unknown_size(name, args), place)
    inside = mapped(_inside, (args, kwargs))
    if "device" in kwargs:
        inside[1]["device"] = machine().inner
    if unknown and machine().shapes:
        return args[0]
    found = func(*inside[0], **inside[1])
    if _in_place(func) and isinstance(found, Tensor):
        _count(name, args, gpus, [], place)
        return args[0]
    found = on(found, place, name)
    made = [each for each in tensors_in(found) if isinstance(each, GpuTensor)]
    _count(name, args, gpus, made, place)
    return found


def _inside(each: Tensor) -> Tensor:
    each = each.held if isinstance(each, GpuTensor) else each
    return each.to("meta") if machine().shapes and each.device.type == "cpu" else each


def _count(name: str, args: Any, read: list[Any], made: list[Any], place: torch.device) -> None:
    if name in VIEWS:
        return
    written = made or read[:1]
    seconds, kind, figures = cost(name, args, read, made)
    counts = machine().counts
    counts.launch(name, place.index, seconds, kind, figures)
    if _unordered(name, args) and not _ordered(name):
        counts.unordered[" ".join((name, *where()))] += 1
    launched(place, [each.held for each in read], [each.held for each in written])


def _unordered(name: str, args: Any) -> bool:
    adds = name in UNORDERED or (name in INDEXED[2:] and len(args) > 3 and bool(args[3]))
    return adds and any(isinstance(each, Tensor) and each.dtype.is_floating_point for each in args)


def _ordered(name: str) -> bool:
    """Whether torch was told to add in a fixed order. Attention's kernels only do where they would raise else."""
    if name == ATTENTION_BACKWARD and torch.is_deterministic_algorithms_warn_only_enabled():
        return False
    return torch.are_deterministic_algorithms_enabled()


def _converted(func: Any, source: Tensor, options: dict[str, Any]) -> Tensor:
    """`_to_copy`: to another place, or another type in the same one."""
    wanted, dtype = options.pop("device", None), options.pop("dtype", None)
    waits = not options.pop("non_blocking", False)
    options = {key: value for key, value in options.items() if key == "memory_format" and value is not None}
    if wanted is not None and torch.device(wanted).type == "meta":
        return func(held(source), dtype=dtype, device=wanted, **options)  # type: ignore[no-any-return]
    place = machine().device(wanted)
    if not isinstance(source, GpuTensor):
        if place is None:
            return func(source, dtype=dtype, device=wanted, **options)  # type: ignore[no-any-return]
        return to_device(source, place, dtype, waits=waits, **options)
    if place is None and wanted is not None and is_asked():
        return to_host(source, dtype, waits=waits, **options)
    if place is not None and place != source.place:
        return between(source, place, dtype)
    found = GpuTensor(aten._to_copy.default(source.held, dtype=dtype or source.dtype, **options), source.place)
    _count("_to_copy", (source,), [source], [found], source.place)
    return found


def _made(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """A tensor from nothing, on a device or in pinned memory."""
    place = machine().device(kwargs.get("device"))
    options = {key: value for key, value in kwargs.items() if key != "pin_memory"}
    if place is None:
        found = func(*args, **options)
        mark_pinned(found)
        return found
    options["device"] = machine().inner
    found = on(func(*mapped(_inside, args), **options), place)
    made = [each for each in tensors_in(found) if isinstance(each, GpuTensor)]
    _count(_name(func), args, [], made, place)
    return found


def _read_by_host(func: Any, name: str, args: Any) -> Any:
    place = next(each.place for each in args if isinstance(each, GpuTensor))
    if name == "equal":
        _check(func, name, args, list(args))
    else:
        machine().counts.add("downloads")
    _waits(place)
    if machine().shapes:
        return True if name == "equal" else shapes.scalar(args[0])
    return func(*held(args))


def _waits(place: torch.device) -> None:
    machine().counts.add("synchronisations")
    host_waits(place)


def _size_unknown(name: str, args: Any) -> bool:
    if name in UNKNOWN_SIZE:
        return True
    if name not in INDEXED:
        return False
    masks = any(isinstance(each, Tensor) and each.dtype in (torch.bool, torch.uint8) for each in args[1])
    # One number of the host's is filled in under the mask, and nobody asks where.
    filled = name != "index" and len(args) > 2 and not isinstance(args[2], GpuTensor) and args[2].numel() == 1
    return masks and not filled


def _check(func: Any, name: str, args: Any, tensors: list[Tensor]) -> None:
    """Raises what CUDA raises for tensors of several places. A number of the host's goes with everything."""
    places = {each.device for each in tensors if each.ndim or each.device.type != "cpu"}
    if name in INDEXED:
        indices = [each for each in args[1] if isinstance(each, Tensor) and not isinstance(each, GpuTensor)]
        if indices and isinstance(args[0], GpuTensor):  # the host's indices are sent
            places = {each.device for each in tensors if not any(each is index for index in indices)} - {
                torch.device("cpu")
            }
            for each in indices:
                to_device(each, args[0].place, None, waits=True)
    changed = args[0][0] if isinstance(args[0], list) else args[0]
    if len(places) > 1 or (_in_place(func) and not isinstance(changed, GpuTensor)):
        found = " and ".join(sorted({str(each.device) for each in tensors}))
        said = ", ".join(f"{each.device}{tuple(each.shape)}" for each in tensors)
        message = f"Expected all tensors to be on the same device, but found at least two devices, {found}!"
        raise RuntimeError(f"{message} ({func}: {said})")
