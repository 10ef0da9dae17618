"""What the engine is given: the spec, where its files are, what is resumed, and what it continues."""

import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    JsonValue,
    StringConstraints,
    field_validator,
    model_validator,
)

from secateur.spec.job import Domain, DomainName, Pruning
from secateur.spec.method import Mode
from secateur.spec.records.machine import Machine
from secateur.spec.records.tasks import BrokenTask, TaskScores
from secateur.spec.sparsity import FurtherStatistics
from secateur.spec.strict import Choice, Refusal, Strict, refuse
from secateur.spec.words import shaped

HIDDEN_PART: Final = 8
"""One in so many bytes of memory is for hidden states, where nothing else is said."""
"""Of hidden states held in memory unless a request says otherwise."""
MOST_THREADS: Final = 1024
_NO_PATH: Final = re.compile("[\0\ud800-\udfff]")
"""Characters that no file's name has."""


def _path(value: Any) -> Path:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value or _NO_PATH.search(value):
        raise ValueError("must be the path of a file or folder")
    return Path(value)


Location = Annotated[Path, BeforeValidator(_path)]


def single_devices(device: str) -> tuple[str, ...]:
    """`cuda:0,1` as `cuda:0` and `cuda:1`; any other as it is."""
    kind, _, numbers = device.partition(":")
    return tuple(f"{kind}:{number}" for number in numbers.split(",")) if numbers else (device,)


def _distinct_devices(value: str) -> str:
    named = [each.partition(":")[2].lstrip("0") for each in single_devices(value)]
    if len(set(named)) < len(named):
        raise ValueError("must name each GPU once")
    return value


Device = Annotated[
    str,
    StringConstraints(
        pattern=shaped(
            r"^(auto|cpu|cuda(:[0-9]{1,2}(,[0-9]{1,2}){0,15})?)$",
            "auto, cpu, cuda, or GPUs such as cuda:0 or cuda:0,1",
        )
    ),
    AfterValidator(_distinct_devices),
]
"""One computes, or several GPUs of one host do: `cuda:0,1`."""
Threads = Annotated[int, Field(ge=1, le=MOST_THREADS)]
Words = Annotated[str, StringConstraints(min_length=1)]


class Format(Choice):
    txt = "txt"
    jsonl = "jsonl"
    chat = "chat"


class Text(Strict):
    """A dataset's file."""

    path: Location
    format: Format = Format.txt
    text_field: Words = Field(
        default="text", description="Of each document of a `jsonl`, or each conversation of a `chat`."
    )


class BaseEvaluation(Strict):
    """An earlier domain's test text."""

    domain: DomainName
    dataset: Words


class Base(Strict):
    """The finished job before this one in a lineage."""

    folder: str = Field(
        default="base",
        description="In the workspace: its artifact's `model/` (the blocks' shards at least) and `state/`.",
    )
    domains: Annotated[tuple[DomainName, ...], Field(strict=False)] = Field(
        min_length=1, description="Of all the lineage's stages so far, in their order."
    )
    evaluations: Annotated[tuple[BaseEvaluation, ...], Field(strict=False)] = Field(
        default=(), description="Of those that have a column in R."
    )

    @property
    def stages(self) -> int:
        return len(self.domains)

    @field_validator("folder")
    @classmethod
    def _inside(cls, value: str) -> str:
        folder = PurePosixPath(value)
        if folder.is_absolute() or ".." in folder.parts or not folder.parts or _NO_PATH.search(value):
            raise ValueError("must be a path inside the workspace")
        return str(folder)

    @field_validator("domains")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("must have different names")
        return value

    @model_validator(mode="after")
    def _columns(self) -> Self:
        columns = [each.domain for each in self.evaluations]
        message = "must be one of the base's domains, each at most once"
        wrong = (n for n, name in enumerate(columns) if name not in self.domains or name in columns[:n])
        refuse(self, (Refusal(("evaluations", number, "domain"), message, columns[number]) for number in wrong))
        return self


class Measured(Strict):
    """A perplexity that an earlier attempt has reported."""

    row: int = Field(ge=0)
    domain: DomainName
    perplexity: float = Field(allow_inf_nan=True)
    protocol: dict[str, JsonValue] | None = None


class Resume(Strict):
    """What an earlier run of the same job, in the same workspace, has finished."""

    stages: int = Field(default=0, ge=0, description="Complete stages, whose files are in the workspace.")
    blocks: int = Field(default=0, ge=0, description="Committed blocks of the next stage.")
    evaluations: Annotated[tuple[Measured, ...], Field(strict=False)] = ()
    tasks: Annotated[tuple[TaskScores, ...], Field(strict=False)] = ()
    broken: Annotated[tuple[BrokenTask, ...], Field(strict=False)] = Field(
        default=(), description="Tasks in which an earlier run has ended: they are not asked again."
    )


class EngineRequest(Pruning):
    """A model, how to prune it, and the domains to do so for, one after another."""

    model: Location = Field(description="A folder with config.json, safetensors and tokenizer.")
    workspace: Location = Field(description="A folder for all that is written.")
    texts: dict[str, Text] = Field(description="Where each dataset is that the domains name.")
    dry_run: bool = Field(default=False, description="Only a plan is asked for.")
    device: Device = Field(default="auto", description="cpu, cuda, cuda:1, cuda:0,1, …, or auto.")
    threads: Threads = Field(default=2, description="torch's, and part of what the bytes depend on.")
    hidden_bytes: int | None = Field(
        default=None,
        ge=0,
        description="Hidden states held in memory at once, beside those that fit on a GPU; the others go to a "
        f"scratch file in the workspace. Without it: 1/{HIDDEN_PART} of the machine's memory or the control "
        "group's.",
    )
    machines: Annotated[tuple[Machine, ...], Field(strict=False)] = Field(
        default=(),
        description="What may run it, for the estimates, the likeliest first; without any the machine at hand is "
        "measured.",
    )
    task_data: Location | None = Field(
        default=None,
        description="A Hugging Face cache, with `datasets` in it, for the harness's own tasks: of no other place "
        "are their data read.",
    )
    seconds_left: float | None = Field(
        default=None,
        description="Of `limits.max_runtime`, once the engine starts: tasks that would not be done before the job "
        "must be published are left out. Null: without end.",
    )
    resume: Resume = Resume()
    base: Base | None = Field(default=None, description="The job that this one continues.")

    @model_validator(mode="after")
    def _fits_the_base(self) -> Self:
        if self.base is None:
            return self
        if self.method.mode is Mode.restart:
            message = "restart keeps nothing to continue; leave the base out"
            refuse(self, [Refusal(("method", self.method.name, "mode"), message, self.method.mode)])
        message = "is the name of one of the lineage's domains already; choose another one"
        taken = (n for n, domain in enumerate(self.domains) if domain.name in self.base.domains)
        refuse(self, (Refusal(("domains", number, "name"), message) for number in taken))
        return self

    @model_validator(mode="after")
    def _fits_the_stages(self) -> Self:
        """A resume that is beyond the end would leave out work in silence."""
        done, stages = self.resume, len(self.stage_names)
        if done.stages > stages or (done.stages == stages and done.blocks):
            message = f"is more than the job has: {stages} stages"
            refuse(self, [Refusal(("resume", "stages"), message, done.stages)])
        return self

    @model_validator(mode="after")
    def _known_texts(self) -> Self:
        named: dict[tuple[int | str, ...], str]
        named = {("domains", n, "dataset"): domain.dataset for n, domain in enumerate(self.domains)}
        named |= {
            ("domains", n, "evaluation"): domain.evaluation
            for n, domain in enumerate(self.domains)
            if domain.evaluation is not None
        }
        earlier = self.base.evaluations if self.base is not None else ()
        named |= {("base", "evaluations", n, "dataset"): each.dataset for n, each in enumerate(earlier)}
        named |= {("tasks", n, "dataset"): task.dataset for n, task in enumerate(self.tasks) if task.dataset}
        message = "is not in `texts`, which must say where it is"
        refuse(self, (Refusal(at, message, name) for at, name in named.items() if name not in self.texts))
        return self

    def at_stage(self, stage: int) -> Self:
        """The job as one of its stages has it, which may be of a further target."""
        if self.learns(stage):
            return self
        further = self.sparsity.further[stage - len(self.domains)]
        return self.model_copy(update={"sparsity": self.sparsity.at(further)})

    def learns(self, stage: int) -> bool:
        """Whether the stage is a domain's; else it is of a further target."""
        return stage < len(self.domains)

    def measures(self, stage: int) -> bool:
        """Whether the stage passes the windows that are solved on; else only those held out."""
        return self.learns(stage) or self.sparsity.further_statistics is FurtherStatistics.own

    def behind_dense(self, stage: int) -> bool:
        """Whether a stage's inputs are measured behind blocks as it begins with them; else as it writes them."""
        return self.method.inputs.behind_dense(self.at_stage(stage).sparsity.target)

    def calibration_tokens(self, stage: int) -> int:
        """Of the windows that a stage measures, also those held out."""
        return self.domain_of(stage).calibration.tokens if self.measures(stage) else 0

    def domain_of(self, stage: int) -> Domain:
        """The domain whose windows a stage has: of a further target, the last one."""
        return self.domains[min(stage, len(self.domains) - 1)]

    @property
    def first_stage(self) -> int:
        """The number of this job's stage 0 in its lineage."""
        return 0 if self.base is None else self.base.stages

    @property
    def lineage(self) -> tuple[str, ...]:
        """The names of all domains of the lineage so far, in the order of its stages."""
        earlier = () if self.base is None else self.base.domains
        return (*earlier, *(domain.name for domain in self.domains))

    @property
    def evaluated(self) -> tuple[tuple[str, Text, str], ...]:
        """The lineage's test texts: domain, text, JSON pointer; a column of R each."""
        earlier = () if self.base is None else self.base.evaluations
        theirs = ((each.domain, each.dataset, f"/base/evaluations/{n}/dataset") for n, each in enumerate(earlier))
        own = ((d.name, d.evaluation, f"/domains/{n}/evaluation") for n, d in enumerate(self.domains))
        return tuple((name, self.texts[text], field) for name, text, field in (*theirs, *own) if text is not None)
