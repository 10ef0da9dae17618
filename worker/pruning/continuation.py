"""What a state file says that it holds, and whether a job can continue it."""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from secateur.spec.job import Numerics
from secateur.spec.method import Method, Mode
from secateur.spec.sparsity import Allocation, Channels, Curvature
from worker.pruning.allocation.output_grams import KEY as OUTPUT_GRAMS
from worker.pruning.errors import UserError
from worker.pruning.evaluation.losses import forward_dtype
from worker.pruning.model.graph import Block, PrunableWeight
from worker.pruning.request import PruningJob
from worker.pruning.state.file import read_document
from worker.pruning.state.moments import Factors
from worker.pruning.state.stage_folder import StageFolder, stage_folder
from worker.pruning.targets.budget import WeightTarget

KEY = "holds"
MEMBERS = "members"
"""In the document: group → its matrices."""
FOLLOWING = "following"
"""In the document: the groups with a matrix that is solved towards the dense prefix. One that has no `cross` is
left out of the comparison (see `dense_prefix`)."""
CHANNELS = "channels"
"""In the document: the matrices whose inputs are in another order than in the model as it came, and what moved."""
PREFIX = "prefix"
"""In the document: what every window began with."""
FIELD = "/continues"
"""What the owner wrote to continue a state."""
KINDS = ("gram", "importance", "cross")
"""Of a group's sums, those that a method may do without."""
Document = Mapping[str, Any]
"""The JSON of a state file."""


def held_statistics(
    job: PruningJob,
    stage: int,
    sums: Mapping[str, Mapping[str, Any]],
    others: Sequence[str],
    before: Document | None,
    surveyed: Sequence[WeightTarget],
) -> dict[str, Any]:
    """What a block's state of one of the job's stages holds, for its document.

    sums: by group, what the document says of them. others: kinds beside them. before: the document of the stage
    before, None in a first stage. surveyed: the matrices of which the block has loss curves.
    """
    grams, importance, cross = (any(each.get(kind) for each in sums.values()) for kind in KINDS)
    kinds = {"moments": bool(sums), "gram": grams, "importance": importance, "cross": cross}
    earlier = (before or {}).get(KEY, {})
    found: dict[str, Any] = {
        "kinds": sorted([*(kind for kind, held in kinds.items() if held), *others]),
        "precision": job.output.state_precision,
        "mode": job.method.mode,
        "stages": _stages(job, stage, earlier, factors(job, stage, before).scale),
    }
    if job.sparsity.keep_zeros:
        found["keep_zeros"] = True
    if importance and job.method.importance is not None:
        found |= job.method.importance._asdict()
    if "survey" in others:
        # A sequential job hands on its first stage's survey.
        carried = earlier.get("adapts") if job.method.mode is Mode.sequential else None
        adapts = _adapting(job, surveyed) if carried is None else carried
        found |= {"allocation": job.sparsity.allocation, "adapts": adapts}
    return found


def following_groups(
    groups: Sequence[Sequence[PrunableWeight]], method: Callable[[PrunableWeight], Method]
) -> list[str]:
    """Those with a matrix that is solved towards the dense prefix."""
    return [group[0].name for group in groups if any(method(matrix).follows_dense for matrix in group)]


def _adapts(job: PruningJob, share: WeightTarget) -> bool:
    """Whether a survey takes the weights of the matrix that stay to make up for what goes, by its own method."""
    return job.method.named(share.method).updates_weights and job.sparsity.curvature is Curvature.adapting


def _adapting(job: PruningJob, surveyed: Sequence[WeightTarget]) -> bool | list[str]:
    """Whether the surveyed matrices' weights are solved for anew; where only some are, which."""
    found = [share.matrix.name for share in surveyed if _adapts(job, share)]
    if not surveyed:
        return job.method.updates_weights and job.sparsity.curvature is Curvature.adapting
    return bool(found) if len(found) in (0, len(surveyed)) else found


def factors(job: PruningJob, stage: int, before: Document | None) -> Factors:
    """How one of the job's stages adds to the sums. before: the document of the stage before, None in a first one.

    before: of a further target that measures, of the stage before its domain's. A state that does not say its
    scale was never divided. What measures nothing adds nothing.
    """
    scale = None
    if before is not None:
        stages = before.get(KEY, {}).get("stages", [])
        scale = float(stages[-1].get("scale", 1.0)) if stages else 1.0
    if not job.measures(stage):
        return Factors(1.0, 0.0, scale or 1.0)
    return Factors.of(job.domain_of(stage).weight, job.method.keeps, scale)


def _stages(job: PruningJob, stage: int, earlier: Mapping[str, Any], scale: float) -> list[dict[str, Any]]:
    """Every stage of the lineage so far, see `stages_before`, with the common factor of the sums where that is not
    1."""
    domain = job.domains[stage]
    own = {"domain": domain.name, "weight": domain.weight, "recency": job.method.keeps}
    return [*stages_before(job, stage, earlier), own if scale == 1 else own | {"scale": scale}]


def stages_before(job: PruningJob, stage: int, said: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The lineage's stages before one of the job's, each with its domain, the domain's weight and the recency γ.

    said: what the state of the stage before holds. One of an older engine says none of it: it knew only 1.
    """
    names = job.lineage[: job.first_stage + stage]
    unsaid = [{"domain": name, "weight": 1.0, "recency": 1.0} for name in names]
    found: list[dict[str, Any]] = said.get("stages", unsaid)
    return found


@dataclass(frozen=True)
class _Check:
    """One block's state against what the job needs. matrices: those of the block that the job prunes."""

    job: PruningJob
    shares: Mapping[str, WeightTarget]
    matrices: tuple[PrunableWeight, ...]
    document: Document

    @property
    def said(self) -> Mapping[str, Any]:
        """Empty in a file of an older engine, of which only the sums themselves can be looked at."""
        found: dict[str, Any] = self.document.get(KEY, {})
        return found

    def lacks(self) -> Iterator[str]:
        """What is in the way, as a sentence's end: "the state …"."""
        method = self.job.method
        if (mode := self.said.get("mode", method.mode)) != method.mode:
            yield f"was made in mode {mode}, and this job's is {method.mode}: keep the mode"
        mine, theirs = self.job.sparsity.keep_zeros, self.said.get("keep_zeros", False)
        if self.said and mine != theirs:
            yield f"was made with keep_zeros {theirs}, and this job's is {mine}: keep it, or begin a new lineage"
        if CHANNELS in self.document and self.job.sparsity.channels is not Channels.permuted:
            yield "was made with channels permuted, and this job's are as stored: keep their order"
        if method.mode is Mode.accumulated:
            yield from self._sums()
        yield from self._survey()

    def _sums(self) -> Iterator[str]:
        groups, members = self.document["groups"], self.document.get(MEMBERS)
        # An older engine named a group's first matrix only.
        listed = members if members is not None else {name: [name] for name in groups}
        following = self.document.get(FOLLOWING, ())
        places = {
            matrix: {**groups[name], FOLLOWING: name in following}
            for name, matrices in listed.items()
            for matrix in matrices
        }
        for matrix in self.matrices:
            if matrix.name in places:
                yield from self._kinds(matrix, places[matrix.name])
            elif members is not None:
                yield f"has no moments of {matrix.name}: prune the same matrices"
        for name in sorted(places.keys() - {matrix.name for matrix in self.matrices}):
            yield f"has moments of {name}, which this job leaves as it is: prune the same matrices"

    def _kinds(self, matrix: PrunableWeight, group: Mapping[str, Any]) -> Iterator[str]:
        method = self.job.method.named(self.shares[matrix.name].method)
        if method.updates_weights and not group["gram"]:
            yield f"has no gram of {matrix.name}, which {method.solver} solves with: continue with a selection"
        if method.weighs_outputs and matrix.name not in self.document.get(OUTPUT_GRAMS, ()):
            yield f"has no output_grams of {matrix.name}, which weighs them: continue with output_weighting none"
        if method.follows_dense and not group[FOLLOWING]:
            yield f"has no cross of {matrix.name}, which the target prefix needs: continue with the target dense"
        if (needed := method.importance) is None:
            return
        if matrix.name not in group["importance"]:
            yield f"has no importance of {matrix.name} by the reading {needed.reading}: continue without it"
        for name, wanted in needed._asdict().items():
            if (held := self.said.get(name, wanted)) != wanted:
                yield f"has the importance of {matrix.name} by {name} {held}, not {wanted}: continue with {held}"

    def _survey(self) -> Iterator[str]:
        allocation = self.job.sparsity.allocation
        free = [m for m in self.matrices if not self.shares[m.name].fixed]
        if allocation is Allocation.uniform or not free or not self.said:
            return
        if self.said.get("allocation") != allocation:
            yield f"has no survey of {free[0].name} for the allocation {allocation}: keep the one it was made with"
        elif allocation is Allocation.error and self.job.method.mode is Mode.accumulated:
            for matrix in free:
                yield from self._curve(matrix)

    def _curve(self, matrix: PrunableWeight) -> Iterator[str]:
        adapts = _adapts(self.job, self.shares[matrix.name])
        held = self.said.get("adapts", adapts)
        if adapts != (matrix.name in held if isinstance(held, list) else held):
            kind = "are solved for anew" if not adapts else "stay as they are"
            yield f"has the survey of {matrix.name} for weights that {kind}, which these do not"


def check_statistics(
    job: PruningJob,
    blocks: Sequence[Block],
    shares: Mapping[str, WeightTarget],
    folder: StageFolder,
    prefix: Sequence[int] = (),
) -> None:
    """Refuse a state that lacks what the job needs. folder: of the stage to continue. prefix: the tokenizer's.

    Raises UserError `state_mismatch` naming the kind of statistics and a matrix. Reads headers only.
    """
    for block in blocks:
        path = folder.path(folder.state(block.index))
        if not path.is_file():
            raise UserError("state_mismatch", f"the state has no file of block {block.index}", FIELD)
        matrices = tuple(matrix for matrix in block.matrices if shares[matrix.name].zeros is not None)
        check = _Check(job, shares, matrices, read_document(path))
        _check_stages(job, folder.stage, check.said)
        _check_prefix(check.document.get(PREFIX, []), prefix)
        for lack in check.lacks():
            raise UserError("state_mismatch", f"the state that is continued {lack}", FIELD)


def check_moments(groups: Sequence[Sequence[PrunableWeight]], before: Container[str]) -> None:
    """Refuse sums without one of the groups, which a state of an older engine could not be asked for earlier."""
    for group in groups:
        if group[0].name not in before:
            lack = f"has no moments of {group[0].name}: prune the same matrices"
            raise UserError("state_mismatch", f"the state that is continued {lack}", FIELD)


def _check_stages(job: PruningJob, stage: int, said: Mapping[str, Any]) -> None:
    expected = list(job.lineage[: job.first_stage + stage + 1])
    found = [each["domain"] for each in said.get("stages", [])]
    if said and found != expected:
        raise UserError("state_mismatch", f"the state is of the domains {found}, not of {expected}", FIELD)


def settle_dtype(job: PruningJob, device: torch.device) -> str:
    """Of the job's forward passes. Raises UserError when its numerics are exact and the lineage's were not."""
    wanted = forward_dtype(device, job.numerics)
    begun = lineage_dtype(job) or wanted
    if job.numerics is Numerics.exact and begun != wanted:
        message = f"the lineage began in {begun}, and exact is {wanted}: its numerics stay fast"
        raise UserError("state_mismatch", message, "/numerics")
    return begun


def _check_prefix(held: Sequence[int], prefix: Sequence[int]) -> None:
    """An older engine put nothing before a window, whatever the tokenizer has."""
    if list(held) != list(prefix):
        message = (
            f"the state is of windows that begin with the tokens {list(held)}, and this job's begin with what the "
            f"tokenizer puts before every text, {list(prefix)}: begin a new lineage"
        )
        raise UserError("state_mismatch", message, FIELD)


def lineage_dtype(job: PruningJob) -> str | None:
    """The dtype that the lineage began with: no R and no model must mix two, even after a move to other
    hardware."""
    for reported in job.resume.evaluations:
        dtype = (reported.protocol or {}).get("dtype")
        if dtype is not None:
            return str(dtype)
    stage = job.resume.stages if job.resume.blocks else job.resume.stages - 1
    if job.first_stage + stage < 0:
        return None
    folder = stage_folder(job, stage, 0)
    dtype = read_document(folder.path(folder.state(0))).get("forward_dtype")
    return None if dtype is None else str(dtype)
