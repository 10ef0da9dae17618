"""The job as it is asked for: typed, with every default, nothing unknown and nothing converted in silence."""

import hashlib
import json
from collections.abc import Iterator
from typing import Annotated, Any, Final, Self

from pydantic import (
    ConfigDict,
    Discriminator,
    Field,
    ModelWrapValidatorHandler,
    StringConstraints,
    Tag,
    model_validator,
)

from secateur.spec.effort import Effort, unsay, with_preset
from secateur.spec.gate import Gate
from secateur.spec.limits import Limits
from secateur.spec.method import METHODS, AnyMethod, Mode
from secateur.spec.output import Form, Output, changes_of
from secateur.spec.partial import MethodPart, SparsityPart
from secateur.spec.sparsity import FurtherStatistics, Sparsity, further_name
from secateur.spec.strict import Choice, Refusal, Strict, refuse
from secateur.spec.tasks import MOST_TASKS, Tasks
from secateur.spec.words import shaped

DomainName = Annotated[
    str,
    StringConstraints(
        pattern=shaped(
            r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$",
            "1 to 64 letters, digits, `_`, `.` and `-`, the first a letter or digit",
        )
    ),
]
LabelKey = Annotated[
    str,
    StringConstraints(
        pattern=shaped(
            r"^[A-Za-z0-9][A-Za-z0-9_./-]{0,62}$",
            "1 to 63 letters, digits, `_`, `.`, `/` and `-`, the first a letter or digit",
        )
    ),
]
LabelValue = Annotated[
    str, StringConstraints(max_length=200, pattern=shaped(r"^[^\x00-\x1f\x7f]*$", "one line of text, or empty"))
]
Labels = Annotated[dict[LabelKey, LabelValue], Field(max_length=16)]
Priority = Annotated[int, Field(ge=-100, le=100)]


_EXAMPLE: Final[dict[str, Any]] = {
    "model": "mdl_019d1c2e8a8b7c5f9d3e4a6b7c8d9e0f",
    "method": {"name": "copal", "weight_update": "admm"},
    "sparsity": {"target": 0.5, "overrides": [{"match": "model.layers.0.*", "skip": True}]},
    "domains": [
        {
            "name": "support",
            "dataset": "ds_019d1c2e8a8b7c5f9d3e4a6b7c8d9e10",
            "calibration": {"samples": 128, "sequence_length": 2048},
            "evaluation": "ds_019d1c2e8a8b7c5f9d3e4a6b7c8d9e11",
        }
    ],
    "labels": {"team": "search"},
}
_CONTINUATION: Final[dict[str, Any]] = {
    "continues": "job_019d1c2e8a8b7c5f9d3e4a6b7c8d9e12",
    "domains": [
        {
            "name": "legal",
            "dataset": "ds_019d1c2e8a8b7c5f9d3e4a6b7c8d9e13",
            "evaluation": "ds_019d1c2e8a8b7c5f9d3e4a6b7c8d9e14",
        }
    ],
    "gate": {"max_bwt": 2.0},
}


class Documents(Choice):
    """How windows are cut out of a text with several documents; a txt is a single one."""

    joined = "joined"
    separate = "separate"


CutBy = Annotated[
    Documents,
    Field(
        description="`joined`: a window may go on from one document to the next, with a blank between them. "
        "`separate`: a window lies in one document, and documents shorter than a window are left out. Each line "
        "of a jsonl is a document; a txt is a single one."
    ),
]
NOT_IN_SPEC: Final = {"limits", "priority", "labels"}
"""Fields of a request that change nothing of what is computed."""


class Calibration(Strict):
    """The text windows that statistics are gathered on."""

    samples: int = Field(default=128, ge=1, le=16384, description="Windows.")
    sequence_length: int = Field(
        default=2048,
        ge=2,
        le=131072,
        description="Tokens a window, those that the tokenizer puts before every text among them.",
    )
    seed: int = Field(default=0, ge=0, lt=2**31)
    held_out: float = Field(
        default=0.1,
        ge=0,
        lt=0.5,
        description="Share of the windows that nothing is solved on; they measure the error of what was solved.",
    )
    documents: CutBy = Documents.joined

    @property
    def tokens(self) -> int:
        return self.samples * self.sequence_length


class Domain(Strict):
    """One stage: the model learns to keep what this domain needs, without the earlier domains' data."""

    name: DomainName
    dataset: str = Field(max_length=100, description="Calibration text: `ds_…`.")
    calibration: Calibration = Calibration()
    evaluation: str | None = Field(
        default=None, max_length=100, description="Test text: `ds_…`; without it the domain has no column in R."
    )
    weight: float = Field(
        default=1.0,
        ge=0.01,
        le=100,
        description="How much the domain counts in the sums over domains. Only with the mode `accumulated`.",
    )


class Evaluation(Strict):
    """Protocol of the perplexities."""

    sequence_length: int = Field(
        default=2048, ge=2, le=131072, description="Tokens a window, as in `calibration`; they do not overlap."
    )
    max_windows: int = Field(default=64, ge=1, le=100_000, description="Windows from the start of each test text.")
    documents: CutBy = Documents.joined


class Numerics(Choice):
    """How a job multiplies."""

    fast = "fast"
    exact = "exact"


class Stages(Strict):
    """What every request for a job says: the domains, one a stage."""

    domains: Annotated[tuple[Domain, ...], Field(strict=False)] = Field(
        min_length=1, max_length=64, description="In the order of their stages."
    )

    @model_validator(mode="after")
    def _distinct_domains(self) -> Self:
        names = [domain.name for domain in self.domains]
        message = "is another domain's name, too; every domain needs one of its own"
        used = (number for number, name in enumerate(names) if name in names[:number])
        refuse(self, (Refusal(("domains", number, "name"), message, names[number]) for number in used))
        return self


class Pruning(Stages):
    """All that decides what is computed, beside the model itself."""

    effort: Effort | None = Field(
        default=None, description="The preset that `method` and `sparsity` were filled by; it says no more itself."
    )
    method: AnyMethod
    sparsity: Sparsity
    evaluation: Evaluation = Evaluation()
    numerics: Numerics = Field(
        default=Numerics.fast,
        description="`exact`: every product is of float32 numbers, in forward passes, statistics, solvers and "
        "evaluation, whatever the processor. `fast`: forward passes, evaluation, the search for ADMM's masks and "
        "the steps of weighed outputs multiply in bfloat16 where the hardware does so natively.",
    )
    output: Output = Output()
    tasks: Tasks = Field(
        default=(),
        max_length=MOST_TASKS,
        description="Done by the lm-evaluation-harness when the last stage is, with the dense model and with the "
        "result of all domains, each loaded as a whole. A task that fails is recorded so, and the job goes on.",
    )

    @property
    def stage_names(self) -> tuple[str, ...]:
        """What each stage is called: a domain, in their order, then the further targets."""
        return (*(domain.name for domain in self.domains), *map(further_name, self.sparsity.further))

    @model_validator(mode="after")
    def _distinct_tasks(self) -> Self:
        names = [task.name for task in self.tasks]
        message = "is another task's name, too; every task needs one of its own"
        used = (number for number, name in enumerate(names) if name in names[:number])
        refuse(self, (Refusal(("tasks", number, "name"), message, names[number]) for number in used))
        return self

    @model_validator(mode="after")
    def _statistics_for_more(self) -> Self:
        """What further targets are solved from must be there, and be all that solving takes."""
        message = None
        if self.method.mode is not Mode.accumulated:
            message = f"needs the sums that the mode accumulated keeps, and mode is {self.method.mode}"
        elif self.method.refinement is not None and self.sparsity.further_statistics is FurtherStatistics.shared:
            message = (
                f"has no text to tune on with shared statistics, and refine is {self.method.refine}; set "
                "`further_statistics` to own, or `method.refine` to none"
            )
        if self.sparsity.further and message is not None:
            refuse(self, [Refusal(("sparsity", "further"), message, self.sparsity.further)])
        return self

    @model_validator(mode="after")
    def _weights_with_sums(self) -> Self:
        """Only sums over domains can be weighted."""
        mode = self.method.mode
        message = f"has an effect in mode accumulated only, and mode is {mode}; leave it out"
        weighted = (
            Refusal(("domains", number, "weight"), message, domain.weight)
            for number, domain in enumerate(self.domains)
            if domain.weight != 1 and mode is not Mode.accumulated
        )
        refuse(self, weighted)
        return self

    @model_validator(mode="after")
    def _masks_of_weights_that_stay(self) -> Self:
        if self.output.form is Form.masks and (changes := changes_of(self.method, self.sparsity)):
            message = (
                f"masks have no weights, and {changes} changes them: choose `packed`, or a method that keeps "
                "weights as they are (magnitude, wanda, or copal without weight_update, nothing refined, no "
                "channels moved)"
            )
            refuse(self, [Refusal(("output", "form"), message, self.output.form)])
        return self

    @model_validator(mode="after")
    def _held_out_for_a_choice(self) -> Self:
        """What is chosen, or kept, by windows held out needs some of every domain."""
        named = [self.method.name, *(each.method for each in self.sparsity.overrides if each.method is not None)]
        for name in dict.fromkeys(named):
            if METHODS[name].chooses:
                refuse(self, self._nothing_held_out(f"the method `{name}` chooses by the error"))
            if self.method.named(name).follows_dense:
                refuse(self, self._nothing_held_out("the target `prefix` is chosen by what is gained"))
        if self.sparsity.further:
            refuse(self, self._nothing_held_out("further targets are measured"))
        if self.method.refinement is not None:
            refuse(self, self._nothing_held_out(f"`refine: {self.method.refine}` is kept for what is gained"))
        return self

    def _nothing_held_out(self, reason: str) -> Iterator[Refusal]:
        for number, domain in enumerate(self.domains):
            calibration = domain.calibration
            wrong = "held_out" if calibration.held_out == 0 else "samples" if calibration.samples < 2 else None
            if wrong is not None:
                least = "more than 0" if wrong == "held_out" else "at least 2"
                message = f"must be {least}: {reason} on the windows held out"
                place = ("domains", number, "calibration", wrong)
                yield Refusal(place, message, getattr(calibration, wrong))


class _Request(Stages):
    """What a new job and a continuation say in the same way."""

    gate: Gate | None = Field(default=None, description="What the result must keep, else the job has failed.")
    limits: Limits = Limits()
    priority: Priority = Field(default=0, description="Of the project's jobs, higher ones start first.")
    labels: Labels = Field(default={})


class JobCreate(_Request, Pruning):
    """Ask for a model to be pruned over an ordered list of domains."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    model: str = Field(max_length=100, description="`mdl_…`")
    effort: Effort | None = Field(
        default=Effort.standard,
        description="What is meant where `method` and `sparsity` leave `target`, `inputs`, `output_weighting`, "
        "`refine`, `curvature`, `survey_tokens`, `channels` or `further_statistics` out. `fast`: what costs "
        "little; `standard`: weights are solved for towards the dense blocks before them, with outputs weighed by "
        "the loss's gradients; `best`: the model is tuned as a whole, too. null: every field's own plain choice. "
        "What is given counts whatever the effort, and the job's spec has every field.",
    )

    @model_validator(mode="wrap")
    @classmethod
    def _fill(cls, request: Any, check: ModelWrapValidatorHandler[Self]) -> Self:
        effort = request.get("effort", Effort.standard) if isinstance(request, dict) else None
        if effort not in list(Effort):
            return check(request)
        filled = with_preset(request, Effort(effort))
        found = check(filled)
        unsay(found, request, filled)
        return found

    def resolved(self) -> dict[str, Any]:
        """The spec with every default written out; what the job does depends on nothing else."""
        return self.model_dump(mode="json", exclude=NOT_IN_SPEC)

    def datasets(self) -> dict[str, str]:
        """Dataset id → JSON pointer of its first mention."""
        return dataset_pointers(self.model_dump(include={"domains", "tasks"}))


class JobContinue(_Request):
    """Continue a finished job's final state with further domains. What is left out of `model`, `effort`, `method`,
    `sparsity`, `evaluation`, `numerics`, `output`, `tasks` and `gate` is that job's; `limits`, `priority`,
    `labels` and each domain's `calibration` begin with their defaults. What is given must fit that job: the model,
    `effort`, `sparsity`, `evaluation`, `numerics` and the method's mode are one for a whole lineage."""

    model_config = ConfigDict(json_schema_extra={"examples": [_CONTINUATION]})

    continues: str = Field(
        max_length=100,
        description="`job_…`: one that has succeeded, or failed by its gate alone. It may be continued often, "
        "and is kept from deletion for as long as a continuation of it exists.",
    )
    model: str | None = Field(default=None, max_length=100, description="`mdl_…`; the lineage's.")
    effort: Effort | None = Field(default=None, description="The lineage's, of when it began.")
    method: MethodPart | None = Field(
        default=None,
        description="Another method can only go on where the statistics that it needs were kept.",
    )
    sparsity: SparsityPart | None = None
    evaluation: Evaluation | None = None
    numerics: Numerics | None = Field(default=None, description="The lineage's.")
    output: Output | None = Field(default=None, description="What is left out in it is the parent's, too.")
    tasks: Tasks | None = Field(
        default=None, max_length=MOST_TASKS, description="Take the place of the parent's as a whole; [] for none."
    )
    gate: Gate | None = Field(
        default=None,
        description="Takes the place of the parent's as a whole; null ends it. Left out, the parent's holds.",
    )

    def given(self, part: str) -> dict[str, Any]:
        """Those fields of a part (`method`, `sparsity`, …) that were sent, as they were understood."""
        value = getattr(self, part)
        return {} if value is None else dict(value.model_dump(mode="json", exclude_unset=True))


class JobSpec(Pruning):
    """What a job computes: as accepted, with every default written out."""

    model: str = Field(description="`mdl_…`")
    gate: Gate | None = None
    continues: str | None = Field(default=None, description="`job_…`: the job whose final state it goes on from.")


def stage_names(spec: dict[str, Any]) -> list[str]:
    """What each stage of a resolved spec is called, see `Pruning.stage_names`."""
    further = spec["sparsity"].get("further", ())
    return [*(domain["name"] for domain in spec["domains"]), *map(further_name, further)]


def _kind(body: Any) -> str:
    goes_on = "continues" in body if isinstance(body, dict) else isinstance(body, JobContinue)
    return "continuation" if goes_on else "new"


JobRequest = Annotated[
    Annotated[JobCreate, Tag("new")] | Annotated[JobContinue, Tag("continuation")], Discriminator(_kind)
]
"""The body of `POST /v1/jobs`."""


def dataset_pointers(spec: dict[str, Any]) -> dict[str, str]:
    """Dataset id → JSON pointer of its first mention in a resolved spec."""
    found: dict[str, str] = {}
    for index, domain in enumerate(spec["domains"]):
        for name in ("dataset", "evaluation"):
            if domain.get(name) is not None:
                found.setdefault(domain[name], f"/domains/{index}/{name}")
    for index, task in enumerate(spec.get("tasks", ())):
        if task.get("dataset") is not None:
            found.setdefault(task["dataset"], f"/tasks/{index}/dataset")
    return found


def canonical_digest(value: Any) -> str:
    """Hex sha256 of a JSON value written in one way: sorted keys, no blanks, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
