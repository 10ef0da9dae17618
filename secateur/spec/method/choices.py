"""The words that a method's fields may say."""

from typing import Final

from secateur.spec.strict import Choice


class MethodName(Choice):
    copal = "copal"
    auto = "auto"
    admm = "admm"
    alps = "alps"
    sparsegpt = "sparsegpt"
    wanda = "wanda"
    magnitude = "magnitude"


class WeightUpdate(Choice):
    """What happens to the kept weights once the method is done."""

    none = "none"
    admm = "admm"


class Mode(Choice):
    """What a later domain starts from."""

    accumulated = "accumulated"
    restart = "restart"
    sequential = "sequential"


class Objective(Choice):
    """What the sums over domains are for."""

    mean = "mean"
    least_forgetting = "least_forgetting"


class Scope(Choice):
    """Among which weights scores are compared."""

    row = "row"
    matrix = "matrix"


class Mask(Choice):
    """Whose mask the weights are solved for: the method's own, or one that ADMM looks for by its scores."""

    selected = "selected"
    searched = "searched"


class Target(Choice):
    """What a matrix is solved towards: its dense weights, or its outputs behind the dense blocks before it."""

    dense = "dense"
    prefix = "prefix"


class Inputs(Choice):
    """Behind which blocks a matrix's inputs are measured: the pruned ones before it, the dense ones, or these in
    the stages that prune at most half."""

    pruned = "pruned"
    dense = "dense"
    dense_to_half = "dense_to_half"

    def behind_dense(self, target: float) -> bool:
        """Whether they are in a stage of that sparsity."""
        return self is Inputs.dense or (self is Inputs.dense_to_half and target <= HALF)


HALF: Final = 0.5
"""Up to this sparsity inputs behind dense blocks serve as well as others, or nearly."""


class OutputWeighting(Choice):
    """How the errors of a matrix's outputs are weighed while its kept weights are solved for."""

    none = "none"
    gradients = "gradients"


class Reading(Choice):
    """Where COPAL's gradient is taken in absolute value."""

    own_terms = "own_terms"
    token = "token"  # noqa: S105 - a reading of the sensitivity per token, not a secret
    sample = "sample"
    dataset = "dataset"
    fisher = "fisher"


class Perturbation(Choice):
    relative = "relative"
    domain_shift = "domain_shift"


class Schedule(Choice):
    immediate = "immediate"
    gradual = "gradual"


RECENCY: Final = {Objective.mean: 1.0, Objective.least_forgetting: 2.0}
"""What the sums so far are multiplied by before a new domain is added."""
