"""What COPAL's readings ask of one domain beside the moments of the inputs: which matrix, which sum, which dx."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from secateur.spec.method import Method, Perturbation, Reading
from worker.pruning.errors import SpecError, UserError
from worker.pruning.methods.copal import GRADIENT_SUMS, dataset_importance, response
from worker.pruning.model.graph import PrunableWeight
from worker.pruning.state.moments import Accumulated, Measured
from worker.pruning.targets.budget import WeightTarget

Dense = Callable[[PrunableWeight], Tensor]
"""A matrix's dense weight, (out, in)."""


@dataclass(frozen=True)
class CopalSums:
    """How one matrix's sensitivity is measured in a domain.

    earlier_mean: see `copal.response`. length: tokens of a calibration window.
    """

    reading: Reading
    earlier_mean: Tensor | None
    length: int

    @property
    def by_token(self) -> bool:
        """Whether every token is looked at; otherwise the moments of the inputs will do."""
        return self.reading in GRADIENT_SUMS

    def added(self, matrix: PrunableWeight, dense: Tensor, inputs: Tensor) -> Tensor:
        """What a batch adds to the matrix's sum, (out, in).

        inputs: x as the matrix read it, (windows, tokens, in), or (tokens, in) from a module that flattens its
        windows or an expert that gets some of their tokens. Raises UserError when windows cannot be told.
        """
        inputs = self._in_windows(matrix, inputs)
        return GRADIENT_SUMS[self.reading](response(dense, inputs, self.earlier_mean), inputs)

    def _in_windows(self, matrix: PrunableWeight, inputs: Tensor) -> Tensor:
        if self.reading is not Reading.sample:
            return inputs.reshape(1, -1, matrix.columns)  # one token after another, whatever the window
        whole = inputs.ndim == 3 and inputs.shape[1] == self.length
        flattened = inputs.ndim == 2 and matrix.expert is None and len(inputs) % self.length == 0
        if not whole and not flattened:
            message = f"{matrix.name} does not read whole windows one after another; choose another reading"
            raise UserError("unsupported_model", message, "/method/reading")
        return inputs.reshape(-1, self.length, matrix.columns)


def find_copal_sums(
    groups: Sequence[Sequence[PrunableWeight]],
    method: Callable[[PrunableWeight], Method],
    before: Mapping[str, Accumulated],
    length: int,
    device: Callable[[str], torch.device],
) -> dict[str, CopalSums]:
    """By matrix, for those whose method needs it. before: by group, the earlier domains' sums; empty in the first
    domain and where earlier ones do not count. length: see CopalSums. device: of each group's sums."""
    found: dict[str, CopalSums] = {}
    for group in groups:
        name = group[0].name
        sums = before.get(name)
        mean = sums.mean / sums.domains if sums is not None else torch.zeros(group[0].columns, device=device(name))
        for matrix in group:
            if (own := method(matrix).importance) is not None:
                shifted = own.perturbation is Perturbation.domain_shift
                found[matrix.name] = CopalSums(own.reading, mean if shifted else None, length)
    return found


def complete(
    groups: Sequence[Sequence[PrunableWeight]],
    measured: Mapping[str, Measured],
    copal_sums: Mapping[str, CopalSums],
    dense: Dense,
) -> dict[str, Measured]:
    """The domain's statistics, by group, with the importance that follows from the moments, and with zeros for a
    matrix that no token reached."""
    found = dict(measured)
    for group in groups:
        name = group[0].name
        importance = dict(found[name].importance)
        for matrix in group:
            if (sensed := copal_sums.get(matrix.name)) is None or matrix.name in importance:
                continue
            importance[matrix.name] = _from_moments(matrix, sensed, found[name], dense)
        found[name] = replace(found[name], importance=importance)
    return found


def _from_moments(matrix: PrunableWeight, copal_sums: CopalSums, measured: Measured, dense: Dense) -> Tensor:
    if copal_sums.reading is Reading.dataset:
        return dataset_importance(dense(matrix), measured.gram, measured.mean, copal_sums.earlier_mean)
    return torch.zeros((matrix.rows, matrix.columns), device=measured.gram.device)


def check_reading(method: Method, shares: Mapping[str, WeightTarget]) -> None:
    """Refuse the reading `sample` for the experts of a mixture. shares: by matrix. Raises SpecError."""
    for share in shares.values():
        own = method.named(share.method).importance
        if share.zeros is None or share.matrix.expert is None:
            continue
        if own is not None and own.reading is Reading.sample:
            message = (
                f"sample needs whole windows, and {share.matrix.name} sees only the tokens routed to its expert: "
                "choose own_terms, token, dataset or fisher, or name another method for the experts in an override"
            )
            raise SpecError("/method/reading", message)
