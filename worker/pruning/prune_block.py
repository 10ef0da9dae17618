"""Pruning one block: measure its inputs, solve its matrices, write it, and move on through what was written."""

import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import Tensor, float32

from secateur.spec.method import Method, Mode, Scope
from worker.pruning.allocation.allocate import stored_survey
from worker.pruning.allocation.curves import output_weights
from worker.pruning.allocation.result import Survey
from worker.pruning.calibration.collect import Gatherer
from worker.pruning.calibration.domain_grams import domain_errors, stored_own_grams
from worker.pruning.calibration.hooks import dense_weight
from worker.pruning.continuation import KEY as HOLDS
from worker.pruning.continuation import MEMBERS, PREFIX, holdings
from worker.pruning.cost import pass_work, solve_work
from worker.pruning.errors import IllConditioned
from worker.pruning.evaluation.losses import precision
from worker.pruning.events import BlockResult, MatrixRecord, Observer, SensitivitySummary
from worker.pruning.methods import registry as methods
from worker.pruning.methods.auto import Choice, Member, Option, best, choice_of
from worker.pruning.methods.masks import Selection, Solution
from worker.pruning.model.block_runner import BlockRunner, unload
from worker.pruning.model.checkpoint import DTYPES, Checkpoint, read_file
from worker.pruning.model.graph import Block, PrunableWeight
from worker.pruning.report.records import (
    History,
    Solved,
    compare_masks,
    matrix_record,
    read_history,
    stored_history,
)
from worker.pruning.report.sensitivity import keepable, summaries_of
from worker.pruning.request import PruningJob
from worker.pruning.runtime import memory as heap
from worker.pruning.runtime.activations import ActivationCache
from worker.pruning.runtime.numerics import all_finite
from worker.pruning.runtime.prefetch import beside
from worker.pruning.runtime.progress import Kind, Tracker
from worker.pruning.state.atomic import write_tensors
from worker.pruning.state.file import StateContent, read_document, state_content
from worker.pruning.state.moments import Accumulated, Inputs, relative_errors
from worker.pruning.state.stage_folder import StageFolder
from worker.pruning.targets.budget import WeightTarget


@dataclass
class BlockPruner:
    """Prunes blocks of one stage. hidden: inputs of the next block, one tensor a batch, on the CPU, replaced as
    blocks are passed; those from index `solved_on` on are of held-out windows. dtype: of the products in forward
    passes. previous: the stage before, None in the first."""

    job: PruningJob
    runner: BlockRunner
    source: Checkpoint
    shares: dict[str, WeightTarget]
    folder: StageFolder
    previous: StageFolder | None
    hidden: ActivationCache
    dtype: str
    tracker: Tracker
    observer: Observer
    survey: Survey = field(default_factory=Survey)
    prefix: tuple[int, ...] = ()
    """What every window begins with."""
    solved_on: int = 0
    _scores: dict[str, Tensor] = field(default_factory=dict)
    """Of this block's matrices, where the job keeps them."""

    def __post_init__(self) -> None:
        self._gatherer = Gatherer(
            job=self.job,
            domain=self.job.domains[self.folder.stage],
            runner=self.runner,
            shares=self.shares,
            previous=self.previous,
            method=self._method,
            forward=self._forward,
            tracker=self.tracker,
            observer=self.observer,
        )

    @property
    def method(self) -> Method:
        return self.job.method

    def read(self, block: Block) -> dict[str, Tensor]:
        """What the block is pruned from."""
        if self.method.mode is Mode.sequential and self.previous is not None:
            return read_file(self.previous.path(self.previous.shard(block.index)))
        return self.source.read(block.tensors)

    def prune(self, block: Block, tensors: dict[str, Tensor]) -> BlockResult:
        """Write the block's shard and state, and send the hidden states through the block as written.

        tensors: what `read` gave; the matrices in it are replaced.
        """
        self.runner.load_block(block, tensors)
        for name in {matrix.tensor for matrix in block.matrices if matrix.slice is not None}:
            if (
                tensors[name].dtype is float32
            ):  # written to in place; without a cast, what is loaded is the same memory
                tensors[name] = tensors[name].clone()
        inputs = self._gatherer.gather(block, self.hidden[: self.solved_on], self.hidden[self.solved_on :])
        heap.trim()  # what measuring leaves behind does not serve solving
        layers, summaries = [], []
        chosen: dict[Method, Choice] = {}
        alone: dict[Method, methods.Group] = {}
        for group in self._gatherer.groups:
            name = group[0].name
            chosen = {method: self._choose(block, method, group, inputs[name]) for method in self._methods(group)}
            alone = {}
            for matrix in group:
                record, found, written = self._solve(
                    block, matrix, chosen[self._method(matrix)], inputs[name], alone
                )
                if matrix.slice is None:
                    tensors[matrix.name] = written
                else:
                    matrix.of(tensors).copy_(written)
                layers.append(record)
                summaries += found
                heap.trim()  # matrices differ in shape, and so do the holes that each one leaves
            layers[-len(group) :] = self._on_every_domain(block, group, tensors, layers[-len(group) :])
        layers = self._compare_masks(block, tensors, layers)
        state = self._state(block, {name: each.sums for name, each in inputs.items()}, layers)
        del inputs, chosen, alone  # Grams and factors, before the forward pass takes memory
        with beside(lambda: self._write(block, tensors, state)):
            self.advance_through(block, tensors)
        files = [("weights", self.folder.shard(block.index)), ("state", self.folder.state(block.index))]
        if self._scores:
            files.append(("sensitivity", self.folder.sensitivity(block.index)))
            self._scores = {}
        return BlockResult(self.folder.stage, block.index, files, layers, summaries)

    def advance_through(self, block: Block, tensors: dict[str, Tensor]) -> None:
        """Replace the hidden states by what the block, as written, makes of them. tensors: as written.

        The last block's outputs are nobody's inputs.
        """
        if block is self.runner.graph.blocks[-1]:
            self.hidden.clear()
        else:
            self.runner.load_block(block, tensors)
        for index, state in enumerate(self.hidden):
            with heap.reusing():
                self.hidden[index] = self._forward(block, state)
            self.tracker.advance(Kind.forward, pass_work(block, state))
        unload(block.module)

    def _forward(self, block: Block, state: Tensor) -> Tensor:
        with precision(self.runner.device, self.dtype):
            return self.runner.forward(block, state.to(self.runner.device))

    def _method(self, matrix: PrunableWeight) -> Method:
        """The job's, or the one that an override names."""
        return self.method.named(self.shares[matrix.name].method)

    def _methods(self, group: list[PrunableWeight]) -> list[Method]:
        return list(dict.fromkeys(map(self._method, group)))

    def _on_every_domain(
        self, block: Block, group: list[PrunableWeight], tensors: dict[str, Tensor], records: list[MatrixRecord]
    ) -> list[MatrixRecord]:
        """The group's records with its matrices' errors under the Gram of every domain that was kept."""
        if (own := self._gatherer.own_grams.get(group[0].name)) is None:
            return records
        dense = [self._original(block, matrix) for matrix in group]
        weights = [self._as_solved(matrix, matrix.of(tensors)) for matrix in group]
        errors = domain_errors(own, list(zip(weights, dense, strict=True)))
        return [replace(record, domain_errors=each) for record, each in zip(records, errors, strict=True)]

    def _original(self, block: Block, matrix: PrunableWeight) -> Tensor:
        """W0, (out, in), which errors are measured against. What is loaded may have been pruned before."""
        if self.method.mode is Mode.sequential and self.previous is not None:
            return self._as_solved(matrix, self.source.read_slice(matrix.tensor, matrix.slice))
        return dense_weight(block, matrix)

    def _as_solved(self, matrix: PrunableWeight, stored: Tensor) -> Tensor:
        """A matrix of a file as (out, in), float32, on the device."""
        weight = stored.to(self.runner.device).float()
        return weight.T if matrix.transposed else weight

    def _choose(self, block: Block, method: Method, group: list[PrunableWeight], inputs: Inputs) -> Choice:
        """What the matrices of the group that ask for `method` are solved with."""
        name = group[0].name
        try:
            choice = choice_of(method, partial(self._members, block, method, group), inputs, self.observer.check)
        except IllConditioned as error:
            raise IllConditioned(f"{name}: {error}") from error
        for raised in (option.group.notes for option in choice.options if option.group.notes):
            self.observer.note("warning", "raised the damping of a Gram", {"matrix": name, **raised})
        return choice

    def _members(self, block: Block, method: Method, group: list[PrunableWeight]) -> list[Member]:
        """The matrices of the group that one choice is for."""

        def member(matrix: PrunableWeight) -> Member:
            original = self._original(block, matrix)
            select = partial(self._selection, self.shares[matrix.name], original=original)
            return Member(matrix.name, dense_weight(block, matrix), select, original)

        return [member(matrix) for matrix in group if self._method(matrix) == method]

    def _solve(
        self,
        block: Block,
        matrix: PrunableWeight,
        choice: Choice,
        inputs: Inputs,
        alone: dict[Method, methods.Group],
    ) -> tuple[MatrixRecord, list[SensitivitySummary], Tensor]:
        """alone: of the domain by itself, by the methods that have asked; shared by the group."""
        began = time.monotonic() - choice.seconds
        self.observer.check()
        dense = dense_weight(block, matrix).contiguous()
        original = self._original(block, matrix)
        try:
            option, solved, notes = best(choice, lambda each: self._attempt(matrix, dense, original, each, inputs))
            seconds = time.monotonic() - began
            if inputs.alone is not None and option.method not in alone:
                alone[option.method] = methods.prepare_alone(option.method, inputs.alone)
            own = alone.get(option.method)
            summaries = summaries_of(option.method, matrix.name, dense, solved.scores, own)
        except IllConditioned as error:
            raise IllConditioned(f"{matrix.name}: {error}") from error
        solution = replace(solved.solution, notes=solved.solution.notes | notes)
        record = matrix_record(replace(solved, solution=solution, seconds=seconds))
        if self.job.output.keep_sensitivities:
            self._scores[matrix.name] = keepable(solved.scores, transposed=matrix.transposed)
        self.tracker.advance(Kind.solve, solve_work(self._method(matrix), matrix))
        return record, summaries, solved.written

    def _attempt(
        self, matrix: PrunableWeight, dense: Tensor, original: Tensor, option: Option, inputs: Inputs
    ) -> Solved:
        """The matrix by one option, and its errors as written. dense: what it is solved from; original: what its
        errors are measured against; (out, in) both."""
        share, method = self.shares[matrix.name], option.method
        selection = self._selection(share, method, original)
        scores = methods.scores(method, matrix.name, dense, option.group)
        solution = methods.solve(method, matrix.name, dense, scores, option.group, selection, self.observer.check)
        written = self._cast(matrix, solution)
        errors = self._errors(matrix, original, written, inputs)
        return Solved(
            share=share,
            solver=method.solver,
            scores=scores,
            solution=solution,
            written=written,
            relative_error=errors[0],
            held_out_error=errors[1],
            dead=int(inputs.sums.dead.sum()),
            expert=self._gatherer.experts.get(matrix.name),
        )

    def _errors(
        self, matrix: PrunableWeight, original: Tensor, written: Tensor, inputs: Inputs
    ) -> tuple[float | None, float | None]:
        """Of the weight as written, on the windows that were solved on and on those held out."""
        weight = self._as_solved(matrix, written)
        held = inputs.held_out
        grams = [inputs.measured.gram] if held is None else [inputs.measured.gram, held.gram]
        found = relative_errors(weight, original, grams)
        return found[0], found[1] if held is not None else None

    def _selection(self, share: WeightTarget, method: Method, original: Tensor) -> Selection:
        """A survey makes rows comparable, so that the whole matrix is one comparison group. original: W0,
        (out, in), on the device."""
        zeros = share.zeros or 0
        allowed = original != 0 if self.job.sparsity.keep_zeros else None
        outputs = self.survey.outputs.get(share.matrix.name)
        if outputs is None:
            return Selection(share.pattern, method.comparison_group, zeros, allowed=allowed)
        rows = output_weights(outputs.to(original.device), squared=method.squared_scores)
        return Selection(share.pattern, Scope.layer, zeros, rows, allowed)

    def _cast(self, matrix: PrunableWeight, solution: Solution) -> Tensor:
        """The weight in the checkpoint's own dtype and orientation."""
        cast = solution.weight.to(DTYPES[self.source.tensors[matrix.tensor].dtype])
        if not all_finite(cast):
            raise IllConditioned(f"a weight does not fit {cast.dtype}")
        return (cast.T if matrix.transposed else cast).contiguous().cpu()

    def _compare_masks(
        self, block: Block, tensors: dict[str, Tensor], layers: list[MatrixRecord]
    ) -> list[MatrixRecord]:
        if self.previous is None:
            return layers
        before = read_file(self.previous.path(self.previous.shard(block.index)))
        known = {matrix.name: matrix for matrix in block.matrices}
        pairs = [(each, known[each.matrix]) for each in layers]
        return [compare_masks(each, matrix.of(tensors), matrix.of(before)) for each, matrix in pairs]

    def _state(self, block: Block, sums: dict[str, Accumulated], layers: list[MatrixRecord]) -> StateContent:
        """What the block's state file will hold."""
        before: dict[str, Any] | None = None
        history: History = []
        if self.previous is not None:
            path = self.previous.path(self.previous.state(block.index))
            before, history = read_document(path), read_history(path)
        survey = stored_survey(self.survey, block)
        surveyed = [self.shares[m.name] for m in block.matrices if m.name in self.survey.curves]
        own, kept = stored_own_grams(self._gatherer.own_grams)
        others = [kind for kind, held in (("survey", survey), ("domain_grams", own)) if held]
        document = {
            "forward_dtype": self.dtype,
            PREFIX: list(self.prefix),
            MEMBERS: {group[0].name: [matrix.name for matrix in group] for group in self._gatherer.groups},
            HOLDS: holdings(self.job, self.folder.stage, sums, others, before, surveyed),
            **kept,
        }
        tensors = survey | own | stored_history(history, layers)
        return state_content(sums, document, tensors, self.job.output.state_precision)

    def _write(self, block: Block, tensors: dict[str, Tensor], state: StateContent) -> None:
        write_tensors(self.folder.path(self.folder.state(block.index)), *state)
        write_tensors(self.folder.path(self.folder.shard(block.index)), tensors)
        if self._scores:
            write_tensors(self.folder.path(self.folder.sensitivity(block.index)), self._scores)
