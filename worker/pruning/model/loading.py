"""Weights on their way into modules that compute, and out of them.

They go to the device as they are stored, and are cast there. A block's matrices are kept in the dtype of forward
passes, so that autocast need not cast them for every batch; everything else is float32, as the graph was made.
"""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from worker.pruning.model.experts import of_expert
from worker.pruning.model.graph import Block, PrunableWeight

_MULTIPLY: Final = (nn.Linear.forward, Conv1D.forward)
"""Forwards that do nothing with their weight but multiply by it."""


def load(module: nn.Module, tensors: dict[str, Tensor], device: torch.device) -> None:
    """Put copies of `tensors` (names relative to `module`) in the place of its parameters and buffers, in the
    dtypes that these have: float32, or what a buffer counts in."""
    kept = module.state_dict()
    known = ((name, tensor) for name, tensor in tensors.items() if name in kept)
    _assign(module, {name: sent(tensor, device).to(kept[name].dtype) for name, tensor in known})


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """On the device, as it is. Page-locked memory is not waited for; its allocator keeps it until it was read."""
    return tensor.to(device, non_blocking=True)


def load_block(
    block: Block,
    tensors: dict[str, Tensor],
    state: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    device: torch.device,
    forward: torch.dtype = torch.float32,
) -> None:
    """Put a block's weights into its module. tensors: by the checkpoint's names. state: see `Names.state`.

    forward: the dtype that products of forward passes are in, by autocast if it is not float32.
    """
    prefix, kept = f"{block.prefix}.", block.module.state_dict()
    matrices = frozenset(map(parameter_of, block.matrices))
    found: dict[str, Tensor] = {}
    block.unrounded.clear()
    # Tensors are put together on the device: there they are stored as they were, and that takes no processor.
    for path, stored in state({name: sent(each, device) for name, each in tensors.items()}).items():
        name = path.removeprefix(prefix)
        if name not in kept:
            continue
        if name not in matrices:
            found[name] = stored.to(kept[name].dtype)
        elif forward is not torch.float32 and _multiplies(block, name):
            found[name] = _cast(stored, forward)
            if stored.dtype is not forward:
                block.unrounded[name] = stored
        else:
            # Not as the module has it: an earlier load may have been for products in another dtype.
            found[name] = stored.to(torch.float32)
    _assign(block.module, found)


def unload(block: Block) -> None:
    """Forget the parameters' values."""
    block.unrounded.clear()
    for part in block.module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            setattr(part, name, nn.Parameter(parameter.to("meta"), requires_grad=False))


def dense_weight(block: Block, matrix: PrunableWeight) -> Tensor:
    """The loaded weight as it was stored, (out, in), float32, whichever way its module has it."""
    return view_of(block, matrix, _held(block, matrix)).float()


def put_weight(block: Block, matrix: PrunableWeight, written: Tensor) -> None:
    """Replace a matrix of a loaded block. written: as its file has it, on the device."""
    path = parameter_of(matrix)
    parameter = block.module.get_parameter(path)
    if matrix.expert is not None:
        turned = written.T if matrix.transposed else written
        for held in (parameter.detach(), block.unrounded.get(path)):
            if held is not None:
                view_of(block, matrix, held).copy_(_cast(turned, held.dtype))
        return
    if path in block.unrounded:
        block.unrounded[path] = written
    owner, _, name = path.rpartition(".")
    cast = nn.Parameter(_cast(written, parameter.dtype), requires_grad=False)
    setattr(block.module.get_submodule(owner), name, cast)


def shares_memory(block: Block, tensor: Tensor) -> bool:
    """Whether what is loaded is this very memory, so that writing to one changes the other."""
    held = (*block.module.parameters(), *block.unrounded.values())
    return any(each.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr() for each in held)


def _assign(module: nn.Module, state: dict[str, Tensor]) -> None:
    # strict=False: a tied name may be absent; the names were compared before.
    module.load_state_dict(state, assign=True, strict=False)
    module.requires_grad_(False)


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """By way of float32, which is what the weights are taken for."""
    return tensor if tensor.dtype is dtype else tensor.float().to(dtype)


def parameter_of(matrix: PrunableWeight) -> str:
    """The path of the parameter that holds the matrix, inside its block."""
    return f"{matrix.module}.{'weight' if matrix.expert is None else matrix.expert.parameter}"


def _multiplies(block: Block, path: str) -> bool:
    """Whether a parameter that holds matrices is for products alone. Experts' are, by their interface."""
    owner, _, name = path.rpartition(".")
    return name != "weight" or type(block.module.get_submodule(owner)).forward in _MULTIPLY


def _held(block: Block, matrix: PrunableWeight) -> Tensor:
    path = parameter_of(matrix)
    found = block.unrounded.get(path)
    return block.module.get_parameter(path).detach() if found is None else found


def view_of(block: Block, matrix: PrunableWeight, held: Tensor) -> Tensor:
    """The matrix, (out, in), in the parameter that holds it; a view."""
    if matrix.expert is not None:
        module, place = block.module.get_submodule(matrix.module), matrix.expert
        return of_expert(module, held, place.index)[place.first_row :][: matrix.rows]
    return held.T if matrix.transposed else held
