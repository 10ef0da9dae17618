"""What each kind of event has in its `data`: the form in the OpenAPI document of what `EventRead` writes."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from app.tables.event_types import EventType
from app.tables.states import State
from secateur.spec.records.history import Phase


class _Event(BaseModel):
    """What all have. seq: its number in the job, from 1."""

    seq: int
    at: datetime


class Nothing(BaseModel):
    """An empty object."""

    model_config = ConfigDict(extra="forbid")


class CreatedData(BaseModel):
    """The job's first state."""

    state: State


class TransitionData(BaseModel):
    """A change of state. reason: a code, if there is one to tell."""

    model_config = ConfigDict(serialize_by_alias=True)

    before: State = Field(alias="from")
    to: State
    reason: str | None
    message: str | None


class ChangedData(BaseModel):
    """Which of labels, priority and limits the owner has changed."""

    fields: list[str]


class RetriedData(BaseModel):
    """job: the one that goes on where this one stopped."""

    job: str


class TakenOverData(BaseModel):
    """job: the one whose checkpoint this one begins with. blocks: how many were finished."""

    job: str
    blocks: int


class PhaseData(BaseModel):
    """The attempt does something else now."""

    phase: Phase
    attempt: int


class AttemptStartedData(BaseModel):
    """A worker has claimed the job."""

    attempt: int
    worker: str


class AttemptEndedData(BaseModel):
    """outcome: `succeeded`, or a code of why not."""

    attempt: int
    outcome: str
    message: str | None


class StageStartedData(BaseModel):
    """The first block of a domain is being pruned."""

    stage: int
    domain: str


class StageFinishedData(BaseModel):
    """All blocks of a domain are pruned."""

    stage: int
    domain: str
    sparsity: float | None
    seconds: float | None


class EvaluatedData(BaseModel):
    """One entry of R."""

    row: int
    domain: str
    perplexity: float


class RestartedData(BaseModel):
    """The checkpoints could not be used."""

    reason: str


class PublishedData(BaseModel):
    """The artifact is there."""

    manifest_digest: str
    bytes: int
    files: int


class NoteData(BaseModel):
    """Something that must not stay silent. What belongs to it has names of its own."""

    model_config = ConfigDict(extra="allow")

    level: Literal["debug", "info", "warning"]
    message: str
    code: str | None = Field(default=None, description="Of a warning.")


class CreatedEvent(_Event):
    type: Literal[EventType.created]
    data: CreatedData


class TransitionEvent(_Event):
    type: Literal[EventType.transition]
    data: TransitionData


class CancelRequestedEvent(_Event):
    type: Literal[EventType.cancel_requested]
    data: Nothing


class ChangedEvent(_Event):
    type: Literal[EventType.changed]
    data: ChangedData


class RetriedEvent(_Event):
    type: Literal[EventType.retried]
    data: RetriedData


class TakenOverEvent(_Event):
    type: Literal[EventType.taken_over]
    data: TakenOverData


class PhaseEvent(_Event):
    type: Literal[EventType.phase]
    data: PhaseData


class AttemptStartedEvent(_Event):
    type: Literal[EventType.attempt_started]
    data: AttemptStartedData


class AttemptEndedEvent(_Event):
    type: Literal[EventType.attempt_ended]
    data: AttemptEndedData


class StageStartedEvent(_Event):
    type: Literal[EventType.stage_started]
    data: StageStartedData


class StageFinishedEvent(_Event):
    type: Literal[EventType.stage_finished]
    data: StageFinishedData


class EvaluatedEvent(_Event):
    type: Literal[EventType.evaluated]
    data: EvaluatedData


class CheckpointDroppedEvent(_Event):
    type: Literal[EventType.checkpoint_dropped]
    data: Nothing


class RestartedEvent(_Event):
    type: Literal[EventType.restarted]
    data: RestartedData


class PublishedEvent(_Event):
    type: Literal[EventType.published]
    data: PublishedData


class NoteEvent(_Event):
    type: Literal[EventType.note]
    data: NoteData


AnyEvent = (
    CreatedEvent
    | TransitionEvent
    | CancelRequestedEvent
    | ChangedEvent
    | RetriedEvent
    | TakenOverEvent
    | PhaseEvent
    | AttemptStartedEvent
    | AttemptEndedEvent
    | StageStartedEvent
    | StageFinishedEvent
    | EvaluatedEvent
    | CheckpointDroppedEvent
    | RestartedEvent
    | PublishedEvent
    | NoteEvent
)


class Event(RootModel[Annotated[AnyEvent, Field(discriminator="type")]]):
    """One line of a job's history; `type` says what its `data` has."""
