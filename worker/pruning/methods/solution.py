"""What every solver returns."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Solution:
    """weight: (out, in), float32, exactly zero where mask is False. mask: (out, in). notes: for the record."""

    weight: Tensor
    mask: Tensor
    notes: dict[str, Any] = field(default_factory=dict)
