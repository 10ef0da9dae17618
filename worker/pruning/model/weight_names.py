"""Between the tensors of a checkpoint and those of the module graph: transformers' own table of conversions.

Many checkpoints are renamed when they are loaded (`embed_out` → `lm_head`, no prefix → `transformer.`), and some
tensors are put together (one matrix an expert → one 3-D parameter a layer). Everything that users see goes by the
checkpoint's names; only what touches a module asks here.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from worker.pruning.errors import UserError, blaming
from worker.pruning.model.checkpoint import Checkpoint


@dataclass(frozen=True)
class Part:
    """Where one checkpoint tensor goes.

    target: the name in the model's state dict; of a conversion with several results, the first. converter and
    pattern: the conversion that consumes it, and which of the conversion's sources it is; None when only renamed.
    """

    name: str
    target: str
    converter: Any = None
    pattern: str | None = None


class Names:
    """The mapping of one model and one checkpoint.

    ignored: tensors which the model has no use for, as in transformers: constants of old checkpoints, other heads,
    layers beyond the configuration's. missing: the model's own names of those which the checkpoint has not:
    tied to others, or made by the model's code.
    """

    def __init__(self, model: Any, parts: list[Part], ignored: tuple[str, ...]) -> None:
        self._model = model
        self._parts = {part.name: part for part in parts}
        self._by_target: dict[str, list[Part]] = defaultdict(list)
        for part in parts:
            self._by_target[part.target].append(part)
        self.ignored = ignored
        self.missing: frozenset[str] = frozenset()

    @classmethod
    def find(cls, model: Any, checkpoint: Checkpoint) -> "Names":
        """Map every tensor. Raises UserError when the two do not belong together."""
        parts, ignored = _match(model, list(checkpoint.tensors))
        names = cls(model, parts, ignored)
        names._compare(checkpoint)
        return names

    def target(self, name: str) -> str | None:
        """Where a checkpoint tensor goes; None when it is ignored."""
        part = self._parts.get(name)
        return part.target if part else None

    def is_renamed(self, name: str) -> bool:
        """Whether a checkpoint tensor is one of the model's under another name, and no part of a conversion."""
        part = self._parts.get(name)
        return part is not None and part.converter is None

    def sources(self, target: str) -> list[Part]:
        """The checkpoint tensors that a tensor of the model is made of, in the order of the conversion's lists."""
        return self._by_target.get(target, [])

    def state(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The model's tensors, by its own names, made of the checkpoint's. Ignored ones are left out.

        A tensor that is only renamed is handed on, not copied.
        """
        wanted = dict.fromkeys(part.target for name in tensors if (part := self._parts.get(name)))
        state: dict[str, Tensor] = {}
        for target in wanted:
            parts = self._by_target[target]
            if parts[0].converter is None:
                state[target] = tensors[parts[0].name]
            else:
                state.update(self._convert(target, parts, tensors))
        return state

    def _convert(self, target: str, parts: list[Part], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        converter = deepcopy(parts[0].converter)
        for part in parts:
            converter.add_tensor(target, part.name, part.pattern, tensors[part.name])
        found = converter.convert(target, model=self._model, config=self._model.config)
        return {name: value[0] if isinstance(value, list) else value for name, value in found.items()}

    def _uneven(self) -> str:
        """The first conversion that has more tensors of one kind than of another, as a remark."""
        for target, parts in self._by_target.items():
            counts = Counter(part.pattern for part in parts if part.converter is not None)
            if len(set(counts.values())) > 1:
                kinds = " and ".join(f"{count} of {pattern}" for pattern, count in sorted(counts.items()))
                return f" (for {target} the checkpoint has {kinds})"
        return ""

    def _compare(self, checkpoint: Checkpoint) -> None:
        """Every tensor of the model must come from the checkpoint (or be tied to one that does), in its shape.

        A buffer may be absent where the library says that it goes without: the model's code has filled it.
        """
        for target, parts in self._by_target.items():
            if parts[0].converter is None and len(parts) > 1:
                raise _unsupported(f"{parts[0].name} and {parts[1].name} are the same tensor, {target}")
        # On the meta device a conversion costs nothing and still says what comes out of it.
        empty = {name: torch.empty(info.shape, device="meta") for name, info in checkpoint.tensors.items()}
        with blaming("unsupported_model", f"its tensors cannot be converted{self._uneven()}", "/model"):
            found = self.state(empty)
        expected = self._model.state_dict(keep_vars=True)
        self.missing = frozenset(expected.keys() - found.keys())
        present = {id(tensor) for name, tensor in expected.items() if name in found}
        optional = getattr(self._model, "_keys_to_ignore_on_load_missing", None) or []
        lacking = []
        for name, tensor in expected.items():
            made = not isinstance(tensor, nn.Parameter) and any(re.search(known, name) for known in optional)
            if id(tensor) not in present and not made:
                lacking.append(name)
            if name in found and found[name].shape != tensor.shape:
                parts = self.sources(name)
                label = f"{name}, made of {len(parts)} tensors of the checkpoint," if len(parts) > 1 else name
                label = parts[0].name if len(parts) == 1 else label
                raise _unsupported(
                    f"{label} has shape {tuple(found[name].shape)} where the model has {tuple(tensor.shape)}"
                )
        if lacking:
            unknown = f"; it has {_some(self.ignored)}, which the model does not know" if self.ignored else ""
            raise _unsupported(f"the checkpoint lacks {_some(lacking)}{unknown}")


def _match(model: Any, names: list[str]) -> tuple[list[Part], tuple[str, ...]]:
    transforms = get_model_conversion_mapping(model)
    renamings = [entry for entry in transforms if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in transforms if isinstance(entry, WeightConverter)]
    by_pattern = {pattern: entry for entry in converters for pattern in entry.source_patterns}
    expected = model.state_dict()
    parts, ignored = [], []
    # This order decides which expert is which when matrices are put together: the library's own.
    for name in sorted(names, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, expected)
        if target not in expected and name in expected:
            target, pattern = rename_source_key(name, [], [], model.base_model_prefix, expected)
        if target in expected:
            parts.append(Part(name, target, by_pattern[pattern] if pattern else None, pattern))
        else:
            ignored.append(name)
    return parts, tuple(ignored)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _unsupported(message: str) -> UserError:
    return UserError("unsupported_model", message, "/model")
