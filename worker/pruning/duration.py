"""How long a job takes on a machine: what is multiplied, moved, read and written, by the rates of each.

Counts are of shapes; what the machine does in a second was measured (`runtime/machine.py`). How far it gets with
matrices as small as a model's, and how often a weight is looked at beside any product, are constants here, taken
from whole jobs.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Final

from secateur.spec.job import Numerics
from secateur.spec.method import Refine
from secateur.spec.records.machine import Machine
from secateur.spec.records.plan import Estimate
from worker.pruning.cost import (
    ROW_TOKENS,
    TASK_ROWS,
    batches_from_survey,
    block_passes,
    planned_work,
    stage_tokens,
    survey_tokens,
    surveys,
    task_work,
    tuned_windows,
    tuning_steps,
)
from worker.pruning.estimate import device_bytes, evaluation_tokens, hidden_bytes, state_bytes
from worker.pruning.model.block_runner import BATCH_TOKENS
from worker.pruning.runtime.hidden_states import SPARE
from worker.pruning.runtime.progress import Kind
from worker.pruning.subject import FLOAT, Subject, width

EFFICIENCY: Final = {"cpu": 0.7, "cuda": 0.5}
"""Of a square product's rate, what products of a model's shapes reach."""
HARNESS_SECONDS: Final = 10.0
"""Until lm-eval is imported and its list of tasks is read."""
INPUT_TOKENS: Final = 100
"""Of a question with one of its choices."""
GRAPH_SECONDS: Final = 2.0
"""Until the model's modules are made and its tokenizer is read."""
BLOCK_SECONDS: Final = 0.15
"""Of a block in a stage, whatever its size: it is loaded several times, and its calls are traced."""
LOOKED_AT: Final = {"cpu": 60, "cuda": 20}
"""How often a weight is read or written in float32, beside products, until its matrix is recorded."""
ELEMENTWISE: Final = {"cpu": (50, 12), "cuda": (24, 2)}
"""Numbers that a block reads or writes of a token beside products (norms, residuals, casts, rotations,
activations): so many times the token's width, and so many times the widest output."""
STEPPED: Final = 16
"""How often a weight, its gradient or one of its moments is read or written in a step of tuning."""
HASHED_BYTES: Final = 8e8
"""Digested in a second; each written file is, by the engine and by its worker."""
INPUTS: Final = 4
"""Different ones of a block's matrices; those that read one are solved on one GPU."""
LAUNCHES: Final = 150
"""Kernels of one batch in one block."""
LAUNCH_SECONDS: Final = 6e-6


@dataclass(frozen=True)
class Course:
    """What a job does on a machine, in the machine's units."""

    subject: Subject
    machine: Machine

    def seconds(self) -> Estimate:
        """Time of the whole job, by part."""
        parts = {
            "start": self.machine.start_seconds + GRAPH_SECONDS,
            "forward": self._products(Kind.forward) + self._share(self._beside_products, Kind.forward),
            "evaluate": self._products(Kind.evaluate) + self._share(self._beside_products, Kind.evaluate),
            "solve": self._products(Kind.solve),
            "transfer": self._transfer(),
            "disk": self._disk(),
            "host": self._host(),
        }
        if self.subject.job.tasks:
            parts["tasks"] = self._tasks()
        how = (
            f"On {self.machine.kind}: operations counted by the engine's own progress meter, by the rate of "
            "products of matrices that such a machine has measured, "
            f"{self._rate(Kind.forward) / 1e9:.0f} GFLOP/s for forward passes, "
            f"{self._attention_rate / 1e9:.0f} for attention and "
            f"{self._rate(Kind.solve) / 1e9:.0f} for solving; activations, and weights that are scored, selected, "
            "tuned and recorded, by the bandwidth of its memory; weights and hidden states that go to a GPU, "
            "by its bus; model, checkpoints and artifact, by its disk. The store's part is left out; a running "
            "job's eta_at is better."
        )
        if self.subject.job.tasks:
            how += (
                f" Tasks: for both models, of {ROW_TOKENS} tokens a row, and {TASK_ROWS:,} rows where `limit` "
                "does not say how many; uploaded questions as they are."
            )
        return Estimate(total=sum(parts.values()), parts=parts, how=how)

    @cached_property
    def work(self) -> dict[Kind, float]:
        """Operations of each kind."""
        job, graph = self.subject.job, self.subject.graph
        vocabulary = graph.model.get_output_embeddings().weight.shape[0]
        found = planned_work(
            job, graph, self.subject.shares, vocabulary, evaluation_tokens(job), self.subject.tasks_tokens
        )
        found[Kind.evaluate] -= task_work(graph, vocabulary, self._task_tokens)
        return found

    @property
    def _task_tokens(self) -> float:
        """Of all tasks with both models."""
        return 2.0 * sum(self.subject.tasks_tokens)

    def _tasks(self) -> float:
        """The harness is loaded, the model twice, and it reads an input at a time, on one of several GPUs."""
        graph, rates = self.subject.graph, self.machine.rates
        vocabulary = graph.model.get_output_embeddings().weight.shape[0]
        products = task_work(graph, vocabulary, self._task_tokens) / (
            EFFICIENCY[self.machine.device] * self._rate(Kind.evaluate)
        )
        # A choice's few tokens are less than what a product of matrices takes to read them.
        read = self._task_tokens / INPUT_TOKENS * self._model_bytes / rates.memory
        loaded = 2 * self._model_bytes / rates.disk_read
        return HARNESS_SECONDS + loaded + max(products, read)

    def _rate(self, kind: Kind) -> float:
        rates = self.machine.rates
        if self.subject.job.numerics is not Numerics.fast:
            return rates.float32
        if kind is Kind.solve:  # half of it searches with rounded products, and half settles with exact ones
            return 2 / (1 / rates.float32 + 1 / rates.rounded)
        # By the rule of `forward_dtype`, for a device that need not be here: bfloat16 where it is the faster one.
        return max(rates.bfloat16, rates.float32)

    def _products(self, kind: Kind) -> float:
        seconds = self.work[kind] / (EFFICIENCY[self.machine.device] * self._rate(kind))
        if kind is not Kind.solve:
            seconds += self._passed(kind) * self._attention / self._attention_rate
        return seconds / self._at_once(kind)

    @property
    def _attention_rate(self) -> float:
        """Operations a second. Of a processor, float32's whole rate: bfloat16 helps attention little, and half of
        it is masked away."""
        return EFFICIENCY["cuda"] * self._rate(Kind.forward) if self._on_gpu else self.machine.rates.float32

    def _at_once(self, kind: Kind) -> float:
        """How many times as quick several GPUs are: a survey and tuning are on the first one, and a block has so
        many inputs that matrices are solved by."""
        gpus = self.machine.gpus
        if kind is Kind.solve:
            return float(min(gpus, INPUTS))
        if kind is Kind.evaluate:
            return float(gpus)
        job = self.subject.job
        stages = range(len(job.stage_names))
        measured = sum(self._passes(stage) * job.calibration_tokens(stage) for stage in stages)
        shared = measured / self._passed(kind)
        return 1 / (1 - shared + shared / gpus)

    def _passed(self, kind: Kind) -> float:
        """Tokens that pass through all blocks."""
        job = self.subject.job
        if kind is Kind.evaluate:
            return float(evaluation_tokens(job) * (len(job.stage_names) + 1))
        stages = range(len(job.stage_names))
        tuned = [self._tuning_passes(stage) * self._tuned_tokens(stage) for stage in stages]
        surveyed = [3 * survey_tokens(job, job.domain_of(stage).calibration) for stage in self._surveying]
        return float(
            sum(self._passes(stage) * stage_tokens(job, stage) for stage in stages) + sum(tuned) + sum(surveyed)
        )

    def _passes(self, stage: int) -> int:
        return block_passes(self.subject.job, self.subject.shares, stage)

    def _tuning_passes(self, stage: int) -> int:
        """Of a tuned token: once for what is wanted, if no survey has it; then forward and back, and behind all
        blocks forward once more on the way."""
        refinement = self.subject.job.method.refinement
        if refinement is None:
            return 0
        each = 3 if self.subject.job.method.refine is Refine.block else 4
        return self._passed_for_tuning(stage) + each * refinement.epochs

    def _passed_for_tuning(self, stage: int) -> bool:
        """Whether the dense model passes for what is wanted, because no survey has it."""
        return not batches_from_survey(self.subject.job, self.subject.shares, stage)

    @property
    def _surveying(self) -> list[int]:
        """Stages that begin with passes over the dense model."""
        job = self.subject.job
        return [stage for stage in range(len(job.stage_names)) if surveys(job, self.subject.shares, stage)]

    def _tuned_tokens(self, stage: int) -> int:
        job = self.subject.job
        calibration = job.domain_of(stage).calibration
        return tuned_windows(job.method, calibration) * calibration.sequence_length

    @property
    def _attention(self) -> float:
        """Operations of one token with those of its window, in all blocks."""
        job, graph = self.subject.job, self.subject.graph
        longest = max(domain.calibration.sequence_length for domain in job.domains)
        return 4.0 * longest * width(graph) * len(graph.blocks)

    @property
    def _beside_products(self) -> float:
        """Seconds a token in all blocks: what is read and written of it, and a GPU's launches for its batch."""
        graph, rates = self.subject.graph, self.machine.rates
        across, widest = ELEMENTWISE[self.machine.device]
        numbers = sum(
            across * width(graph) + widest * max((matrix.rows for matrix in block.matrices), default=0)
            for block in graph.blocks
        )
        begun = LAUNCHES * LAUNCH_SECONDS * len(graph.blocks) / BATCH_TOKENS if self._on_gpu else 0.0
        return FLOAT * numbers / rates.memory + begun

    def _share(self, seconds: float, kind: Kind) -> float:
        return seconds * self._passed(kind) / self._at_once(kind)

    @property
    def _on_gpu(self) -> bool:
        return self.machine.device == "cuda"

    @property
    def _model_bytes(self) -> float:
        return float(sum(info.bytes for info in self.subject.checkpoint.tensors.values()))

    @property
    def _loads(self) -> int:
        """How often the whole model is loaded: to be evaluated, surveyed (forward and back) and pruned; and where
        norms are tuned, in every step, and for what is wanted, where it begins, and both held-out losses."""
        job = self.subject.job
        stages = len(job.stage_names)
        wanted = sum(map(self._passed_for_tuning, range(stages)))
        tuned = 2 * self._steps + 3 * stages + wanted if job.method.refine is Refine.norms else 0
        return stages * 2 + len(self._surveying) * 2 + 1 + tuned

    def _transfer(self) -> float:
        """Over the bus: the model once a load, as stored, and hidden states that the GPU does not hold."""
        upload, download = self.machine.rates.upload, self.machine.rates.download
        if upload is None or download is None:
            return 0.0
        passed = self._passed(Kind.forward) + self._passed(Kind.evaluate)
        hidden = self._elsewhere * FLOAT * width(self.subject.graph) * len(self.subject.graph.blocks) * passed
        return (self._loads * self._model_bytes + hidden) / upload + hidden / download

    @property
    def _elsewhere(self) -> float:
        """The part of the hidden states that the GPU has no room for."""
        room = (1 - SPARE) * self.machine.device_bytes - device_bytes(self.subject)
        return 1 - min(max(room, 0.0) / max(hidden_bytes(self.subject), 1), 1.0)

    def _disk(self) -> float:
        """Read once what the kernel keeps, every time what it cannot; write each stage's weights and state."""
        rates, domains, stages = (
            self.machine.rates,
            len(self.subject.job.domains),
            len(self.subject.job.stage_names),
        )
        model = self._model_bytes
        readings = 2 + self._loads if 2 * model > self.machine.host_bytes else 1
        # Tuned as a whole, a stage's blocks are written as they were and as they are.
        copies = 3 if self.subject.job.method.refine is Refine.model else 1
        written = copies * stages * model + sum(
            state_bytes(self.subject, self.subject.job.first_stage + stage + 1) for stage in range(domains)
        )
        return readings * model / rates.disk_read + written / rates.disk_write

    @property
    def _steps(self) -> int:
        """Of tuning, in all stages."""
        job = self.subject.job
        stages = range(len(job.stage_names))
        return sum(tuning_steps(job.method, job.domain_of(stage).calibration) for stage in stages)

    def _host(self) -> float:
        """What is done to weights beside products: cast, scored, selected, tuned, summarised, packed, digested."""
        job, device = self.subject.job, self.machine.device
        domains, stages = len(job.domains), len(job.stage_names)
        pruned = sum(
            matrix.weights for block in self.subject.graph.blocks for matrix in self.subject.pruned(block)
        )
        stepped = 0 if job.method.refine is Refine.norms else self._steps * STEPPED
        looked_at = (stages * LOOKED_AT[device] + stepped) * FLOAT * pruned
        loaded = 0.0 if self._on_gpu else 2.0 * (self._loads + 2) * self._model_bytes
        digested = 2.0 * (stages * self._model_bytes + domains * state_bytes(self.subject, domains))
        counted = BLOCK_SECONDS * stages * len(self.subject.graph.blocks)
        return counted + (looked_at + loaded) / self.machine.rates.memory + digested / HASHED_BYTES
