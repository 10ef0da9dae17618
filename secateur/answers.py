"""What the API answers, as types. Made of the OpenAPI document by `python -m app.export_answers`; not edited.

Answers are plain dictionaries as the server sent them. What a newer server adds is in them, if in no type.
The document, as `/docs` of a server shows it, says what each field means.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypeAlias, TypedDict


class Admm(TypedDict):
    name: Literal["admm"]
    mode: NotRequired[Literal["accumulated", "restart", "sequential"]]
    objective: NotRequired[Literal["mean", "least_forgetting"]]
    recency: NotRequired[float | None]
    comparison_group: NotRequired[Literal["row", "matrix"]]
    inputs: NotRequired[Literal["pruned", "dense", "dense_to_half"] | None]
    refine: NotRequired[Literal["none", "norms", "block", "model"] | None]
    refinement: NotRequired[Refinement | None]
    target: NotRequired[Literal["dense", "prefix"] | None]
    output_weighting: NotRequired[Literal["none", "gradients"] | None]
    weight_update: NotRequired[Literal["admm"]]
    admm: NotRequired[AdmmSettings]


class AdmmSettings(TypedDict):
    iterations: NotRequired[int]
    mask_steps: NotRequired[int]
    schedule: NotRequired[Literal["immediate", "gradual"]]
    damping: NotRequired[float]
    rho: NotRequired[float]
    polish_steps: NotRequired[int]


class AgreementRead(TypedDict):
    matrices: int
    only_job: int
    only_other: int
    same_masks: int
    same_weights: int
    unknown: int
    weights: int
    weights_under_same_masks: int


class Alps(TypedDict):
    name: Literal["alps"]
    mode: NotRequired[Literal["accumulated", "restart", "sequential"]]
    objective: NotRequired[Literal["mean", "least_forgetting"]]
    recency: NotRequired[float | None]
    comparison_group: NotRequired[Literal["row", "matrix"]]
    inputs: NotRequired[Literal["pruned", "dense", "dense_to_half"] | None]
    refine: NotRequired[Literal["none", "norms", "block", "model"] | None]
    refinement: NotRequired[Refinement | None]
    target: NotRequired[Literal["dense", "prefix"] | None]
    output_weighting: NotRequired[Literal["none", "gradients"] | None]
    weight_update: NotRequired[Literal["none", "admm"]]
    admm: NotRequired[AdmmSettings | None]
    alps: NotRequired[AlpsSettings]


class AlpsSettings(TypedDict):
    max_steps: NotRequired[int]
    update_every: NotRequired[int]
    rho: NotRequired[float]
    damping: NotRequired[float]
    polish_steps: NotRequired[int]


class AttemptEndedData(TypedDict):
    attempt: int
    outcome: str
    message: str | None


class AttemptEndedEvent(TypedDict):
    seq: int
    at: str
    type: Literal["attempt_ended"]
    data: AttemptEndedData


class AttemptRead(TypedDict):
    number: int
    worker: str
    fence: int
    started_at: str
    ended_at: str | None
    outcome: str | None
    error: dict[str, Any] | None
    engine: dict[str, Any] | None


class AttemptStartedData(TypedDict):
    attempt: int
    worker: str


class AttemptStartedEvent(TypedDict):
    seq: int
    at: str
    type: Literal["attempt_started"]
    data: AttemptStartedData


class AuditRead(TypedDict):
    id: str
    object: NotRequired[Literal["audit_event"]]
    at: str
    project: str | None
    actor_project: str | None
    key: str | None
    action: str
    object_id: str | None
    outcome: str
    count: int
    request_id: str | None
    client: str | None


class Auto(TypedDict):
    name: Literal["auto"]
    mode: NotRequired[Literal["accumulated", "restart", "sequential"]]
    objective: NotRequired[Literal["mean", "least_forgetting"]]
    recency: NotRequired[float | None]
    comparison_group: NotRequired[Literal["row", "matrix"]]
    inputs: NotRequired[Literal["pruned", "dense", "dense_to_half"] | None]
    refine: NotRequired[Literal["none", "norms", "block", "model"] | None]
    refinement: NotRequired[Refinement | None]
    target: NotRequired[Literal["dense", "prefix"] | None]
    output_weighting: NotRequired[Literal["none", "gradients"] | None]


class BlockSensitivityRead(TypedDict):
    job: str
    stage: int
    lineage_stage: int
    domain: str
    block: int
    share: float | None
    basis: Basis
    matrices: int
    weights: int | None
    mean: float | None
    total: float


class CalibratedRead(TypedDict):
    seconds: float
    low: float
    high: float
    jobs: int
    method: str
    device: str
    kind: str


class Calibration(TypedDict):
    samples: NotRequired[int]
    sequence_length: NotRequired[int]
    seed: NotRequired[int]
    held_out: NotRequired[float]
    documents: NotRequired[Literal["joined", "separate"]]


class CancelRequestedEvent(TypedDict):
    seq: int
    at: str
    type: Literal["cancel_requested"]
    data: Nothing


class ChangedData(TypedDict):
    fields: list[str]


class ChangedEvent(TypedDict):
    seq: int
    at: str
    type: Literal["changed"]
    data: ChangedData


class CheckedFileRead(TypedDict):
    path: str
    ok: bool


class CheckpointDroppedEvent(TypedDict):
    seq: int
    at: str
    type: Literal["checkpoint_dropped"]
    data: Nothing


class ComparedEvaluationRead(TypedDict):
    domains: list[str]
    only_job: list[str]
    only_other: list[str]
    rows: list[ComparedRowRead]
    mean_perplexity: TwoRead
    bwt: TwoRead
    log_bwt: TwoRead


class ComparedHistoryRead(TypedDict):
    job: ComparedStageRead
    other: ComparedStageRead
    sensitivity_basis: Basis
    agreement: AgreementRead
    matrices: PageComparedMatrixRead


class ComparedMatrixRead(TypedDict):
    block: int
    matrix: str
    weights: int
    pattern: str | None
    other_pattern: str | None
    solver: str | None
    other_solver: str | None
    sparsity: TwoRead
    relative_error: TwoRead
    held_out_error: TwoRead
    sensitivity_mean: TwoRead
    sensitivity_share: TwoRead
    same_mask: bool | None
    same_weights: bool | None


class ComparedRowRead(TypedDict):
    row: int
    after: str | None
    other_after: str | None
    perplexity: dict[str, TwoRead]


class ComparedStageRead(TypedDict):
    stage: int
    domain: str


class ComparisonRead(TypedDict):
    object: NotRequired[Literal["comparison"]]
    job: str
    other: str
    evaluation: ComparedEvaluationRead | None
    history: ComparedHistoryRead | None


class Copal(TypedDict):
    name: Literal["copal"]
    mode: NotRequired[Literal["accumulated", "restart", "sequential"]]
    objective: NotRequired[Literal["mean", "least_forgetting"]]
    recency: NotRequired[float | None]
    comparison_group: NotRequired[Literal["row", "matrix"]]
    inputs: NotRequired[Literal["pruned", "dense", "dense_to_half"] | None]
    refine: NotRequired[Literal["none", "norms", "block", "model"] | None]
    refinement: NotRequired[Refinement | None]
    weight_update: NotRequired[Literal["none", "admm"]]
    admm: NotRequired[AdmmSettings | None]
    mask: NotRequired[Literal["selected", "searched"] | None]
    target: NotRequired[Literal["dense", "prefix"] | None]
    output_weighting: NotRequired[Literal["none", "gradients"] | None]
    reading: NotRequired[Literal["own_terms", "token", "sample", "dataset", "fisher"]]
    perturbation: NotRequired[Literal["relative", "domain_shift"]]


class CreatedData(TypedDict):
    state: State


class CreatedEvent(TypedDict):
    seq: int
    at: str
    type: Literal["created"]
    data: CreatedData


class DatasetRead(TypedDict):
    id: str
    object: NotRequired[Literal["dataset"]]
    name: str
    state: IntakeState
    source: Literal["upload", "hub"]
    format: Literal["txt", "jsonl", "chat"]
    text_field: str | None
    hub: dict[str, Any] | None
    upload: NotRequired[UploadedFile | None]
    bytes: int | None
    documents: int | None
    characters: int | None
    sha256: str | None
    error: InputError | None
    created_at: str
    updated_at: str


class DeliveryAttempt(TypedDict):
    number: int
    started_at: str
    seconds: float | None
    status: int | None
    error: PostError | None
    response: str | None


class DeliveryRead(TypedDict):
    id: str
    object: NotRequired[Literal["delivery"]]
    webhook: str
    type: str
    job: str | None
    seq: int | None
    state: DeliveryState
    attempts: int
    last_attempt: DeliveryAttempt | None
    next_attempt_at: str | None
    created_at: str
    finished_at: str | None


class DeliveryWithAttempts(TypedDict):
    id: str
    object: NotRequired[Literal["delivery"]]
    webhook: str
    type: str
    job: str | None
    seq: int | None
    state: DeliveryState
    attempts: int
    last_attempt: DeliveryAttempt | None
    next_attempt_at: str | None
    created_at: str
    finished_at: str | None
    tries: list[DeliveryAttempt]
    body: str


class Domain(TypedDict):
    name: str
    dataset: str
    calibration: NotRequired[Calibration]
    evaluation: NotRequired[str | None]
    weight: NotRequired[float]


class Estimate(TypedDict):
    total: float
    parts: dict[str, float]
    how: str


class Estimates(TypedDict):
    memory_bytes: Estimate
    disk_bytes: Estimate
    seconds: Estimate
    artifact_bytes: NotRequired[Estimate | None]
    host_bytes: NotRequired[float | None]
    device_bytes: NotRequired[float | None]
    device: NotRequired[str | None]
    kind: NotRequired[str | None]
    operations: NotRequired[float | None]
    needs: NotRequired[Needs | None]
    workers: NotRequired[list[WorkerFit]]


class EvaluatedData(TypedDict):
    row: int
    domain: str
    perplexity: float


class EvaluatedEvent(TypedDict):
    seq: int
    at: str
    type: Literal["evaluated"]
    data: EvaluatedData


class Evaluation(TypedDict):
    sequence_length: NotRequired[int]
    max_windows: NotRequired[int]
    documents: NotRequired[Literal["joined", "separate"]]


class EvaluationRead(TypedDict):
    mean_perplexity: float | None
    dense_mean_perplexity: float | None
    bwt: float | None
    log_bwt: float | None
    object: Literal["evaluation"]
    job: str
    domains: list[str]
    not_measured: list[str]
    rows: list[RowRead]
    protocols: dict[str, dict[str, Any]]
    tasks: list[TaskRead]


class FailureRead(TypedDict):
    code: str
    message: str
    field: NotRequired[str | None]
    cause: Cause
    details: NotRequired[dict[str, Any] | None]


class FileRead(TypedDict):
    path: str
    sha256: str
    bytes: int
    media_type: str


class Gate(TypedDict):
    max_bwt: NotRequired[float | None]
    max_log_bwt: NotRequired[float | None]
    max_mean_perplexity: NotRequired[float | None]


class HarnessTask(TypedDict):
    name: str
    dataset: NotRequired[str | None]
    few_shot: NotRequired[int | None]
    limit: NotRequired[int | None]


class HubTokenRead(TypedDict):
    object: NotRequired[Literal["hub_token"]]
    set: bool
    hint: str | None
    updated_at: str | None
    updated_by: str | None


class InputError(TypedDict):
    code: str
    message: str
    field: NotRequired[str | None]


class JobRead(TypedDict):
    id: str
    object: NotRequired[Literal["job"]]
    state: State
    phase: Phase | None
    method: str
    model: str
    spec: JobSpec
    spec_digest: str
    labels: dict[str, str]
    priority: int
    limits: Limits
    retry_of: str | None
    continues: str | None
    lineage: str
    first_stage: int
    attempts: int
    losses: LossesRead
    runtime_seconds: float
    progress: ProgressRead | None
    failure: FailureRead | None
    result: ResultRead | None
    cancel_requested: bool
    pause_requested: bool
    created_at: str
    updated_at: str
    started_at: str | None
    finished_at: str | None


class JobSpec(TypedDict):
    domains: list[Domain]
    effort: NotRequired[Literal["fast", "standard", "best"] | None]
    method: Magnitude | Wanda | SparseGpt | Admm | Alps | Auto | Copal
    sparsity: Sparsity
    evaluation: NotRequired[Evaluation]
    numerics: NotRequired[Literal["fast", "exact"]]
    output: NotRequired[Output]
    tasks: NotRequired[list[HarnessTask]]
    model: str
    gate: NotRequired[Gate | None]
    continues: NotRequired[str | None]


class JobWarning(TypedDict):
    code: str
    message: str
    data: NotRequired[dict[str, Any]]


class KeyCreated(TypedDict):
    id: str
    object: NotRequired[Literal["api_key"]]
    project: str
    name: str
    hint: str
    scopes: list[str]
    state: KeyState
    created_at: str
    created_by: str | None
    expires_at: str | None
    revoked_at: str | None
    rotated_at: str | None
    previous_valid_until: str | None
    last_used_at: str | None
    secret: str


class KeyRead(TypedDict):
    id: str
    object: NotRequired[Literal["api_key"]]
    project: str
    name: str
    hint: str
    scopes: list[str]
    state: KeyState
    created_at: str
    created_by: str | None
    expires_at: str | None
    revoked_at: str | None
    rotated_at: str | None
    previous_valid_until: str | None
    last_used_at: str | None


class Limits(TypedDict):
    max_runtime: NotRequired[str | None]
    max_pending: NotRequired[str | None]


class LineageJobRead(TypedDict):
    id: str
    continues: str | None
    retry_of: str | None
    state: State
    domains: list[str]
    first_stage: int
    manifest_digest: str | None
    created_at: str


class LineageRead(TypedDict):
    object: NotRequired[Literal["lineage"]]
    job: str
    root: str
    path: list[PathJobRead]
    jobs: list[LineageJobRead]
    total: int


class LineageStageRead(TypedDict):
    lineage_stage: int
    stage: int
    domain: str


class LogRead(TypedDict):
    seq: int
    at: str
    attempt: int
    level: str
    message: str


class LossesRead(TypedDict):
    lost_attempts: int
    memory_attempts: int
    preemptions: int


class Magnitude(TypedDict):
    name: Literal["magnitude"]
    mode: NotRequired[Literal["accumulated", "restart", "sequential"]]
    objective: NotRequired[Literal["mean", "least_forgetting"]]
    recency: NotRequired[float | None]
    comparison_group: NotRequired[Literal["row", "matrix"]]
    inputs: NotRequired[Literal["pruned", "dense", "dense_to_half"] | None]
    refine: NotRequired[Literal["none", "norms", "block", "model"] | None]
    refinement: NotRequired[Refinement | None]
    weight_update: NotRequired[Literal["none", "admm"]]
    admm: NotRequired[AdmmSettings | None]
    mask: NotRequired[Literal["selected", "searched"] | None]
    target: NotRequired[Literal["dense", "prefix"] | None]
    output_weighting: NotRequired[Literal["none", "gradients"] | None]


class ManifestRead(TypedDict):
    object: NotRequired[Literal["manifest"]]
    digest: str
    bytes: int
    files: list[FileRead]
    provenance: dict[str, Any]


class MatrixRead(TypedDict):
    job: str
    stage: int
    lineage_stage: int
    domain: str
    block: int
    matrix: str
    rows: int
    columns: int
    weights: int
    zeros: int
    sparsity: float
    target: float
    pattern: str
    solver: str
    seconds: float
    relative_error: float | None
    held_out_error: float | None
    mask_changed: float | None
    mask_overlap: float | None
    revived: float | None
    newly_pruned: float | None
    domain_errors: dict[str, float | None] | None
    mask_sha256: str | None
    weights_sha256: str | None
    notes: dict[str, Any]


class MethodRead(TypedDict):
    object: NotRequired[Literal["method"]]
    name: str
    description: str
    parameters: list[ParameterRead]


class ModelLicense(TypedDict):
    id: str
    name: str | None
    link: str | None


class ModelRead(TypedDict):
    id: str
    object: NotRequired[Literal["model"]]
    name: str
    state: ModelState
    source: dict[str, Any]
    architecture: str | None
    model_type: str | None
    dtype: str | None
    parameters: int | None
    blocks: int | None
    bytes: int | None
    digest: str | None
    license: ModelLicense | None
    warnings: list[JobWarning]
    error: InputError | None
    created_at: str
    updated_at: str


class Needs(TypedDict):
    memory_bytes: float
    host_bytes: float
    device_bytes: float


class NoteData(TypedDict):
    level: Literal["debug", "info", "warning"]
    message: str
    code: NotRequired[str | None]


class NoteEvent(TypedDict):
    seq: int
    at: str
    type: Literal["note"]
    data: NoteData


class Nothing(TypedDict):
    pass


class Output(TypedDict):
    form: NotRequired[Literal["dense", "packed", "masks"]]
    state_precision: NotRequired[Literal["float16", "float32"]]
    keep_domain_statistics: NotRequired[bool]
    keep_sensitivities: NotRequired[bool]
    keep_stages: NotRequired[bool]
    publish_to: NotRequired[str | None]


class Overlap(TypedDict):
    overrides: list[int]
    winners: dict[str, int]
    matrices: list[str]


class Override(TypedDict):
    match: NotRequired[str | None]
    regex: NotRequired[str | None]
    pattern: NotRequired[str | None]
    target: NotRequired[float | None]
    method: NotRequired[Literal["copal", "auto", "admm", "alps", "sparsegpt", "wanda", "magnitude"] | None]
    skip: NotRequired[bool | None]


class OverrideCount(TypedDict):
    index: int
    says: str
    matches: int
    decides: int


class PageComparedMatrixRead(TypedDict):
    object: NotRequired[Literal["list"]]
    data: list[ComparedMatrixRead]
    next_cursor: str | None


class ParameterRead(TypedDict):
    name: str
    description: str
    default: Any
    schema: dict[str, Any]


class PathJobRead(TypedDict):
    id: str
    continues: str | None
    retry_of: str | None
    state: State
    domains: list[str]
    first_stage: int
    manifest_digest: str | None
    created_at: str
    stages: list[LineageStageRead]


class PhaseData(TypedDict):
    phase: Phase
    attempt: int


class PhaseEvent(TypedDict):
    seq: int
    at: str
    type: Literal["phase"]
    data: PhaseData


class PlanLineRead(TypedDict):
    id: str
    object: NotRequired[Literal["plan"]]
    state: IntakeState
    model: str
    method: str
    spec_digest: str | None
    error: InputError | None
    created_at: str
    updated_at: str
    expires_at: str
    seconds: float | None
    memory_bytes: float | None
    disk_bytes: float | None


class PlanRead(TypedDict):
    id: str
    object: NotRequired[Literal["plan"]]
    state: IntakeState
    model: str
    method: str
    spec_digest: str | None
    error: InputError | None
    created_at: str
    updated_at: str
    expires_at: str
    spec: JobSpec
    result: PlanResult | None
    calibrated: NotRequired[CalibratedRead | None]
    jobs: NotRequired[list[PlannedJobRead]]


class PlanResult(TypedDict):
    architecture: str
    blocks: int
    parameters: int
    prefix: NotRequired[list[int]]
    pattern: str
    allocation: str
    weights: int
    zeros: int
    sparsity: float
    matched: list[PlannedMatrix]
    skipped: list[SkippedTensor]
    overrides: list[OverrideCount]
    overlaps: list[Overlap]
    estimates: Estimates
    warnings: NotRequired[list[JobWarning]]


class PlannedJobRead(TypedDict):
    id: str
    state: State
    runtime_seconds: float
    expected_seconds: float | None
    ratio: float | None


class PlannedMatrix(TypedDict):
    name: str
    rows: int
    columns: int
    weights: int
    zeros: int
    target: float
    settled: bool
    pattern: str
    comparison_group: str
    solver: str
    statistics: NotRequired[list[str]]
    overrides: list[str]


class PresignedPut(TypedDict):
    method: NotRequired[Literal["PUT"]]
    url: str
    expires_at: str


class ProgressRead(TypedDict):
    phase: Phase
    stage: int | None
    stages: int | None
    domain: str | None
    block: int | None
    blocks: int | None
    fraction: float
    eta_at: str | None
    updated_at: str


class ProjectRead(TypedDict):
    id: str
    object: NotRequired[Literal["project"]]
    name: str
    disabled: bool
    model_roots: list[str]
    share: float
    quotas: dict[str, int | None]
    created_at: str


class PublishedData(TypedDict):
    manifest_digest: str
    bytes: int
    files: int


class PublishedEvent(TypedDict):
    seq: int
    at: str
    type: Literal["published"]
    data: PublishedData


class QueuePlace(TypedDict):
    object: NotRequired[Literal["queue_place"]]
    job: str
    state: State
    position: int | None
    ahead: int | None
    waits_for: list[WaitRead]


class QuotaUsage(TypedDict):
    used: int
    limit: int | None
    counts: str


class Refinement(TypedDict):
    epochs: NotRequired[int]
    windows: NotRequired[int | None]
    relative_rate: NotRequired[float | None]
    learning_rate: NotRequired[float | None]
    norms: NotRequired[bool]


class RestartedData(TypedDict):
    reason: str


class RestartedEvent(TypedDict):
    seq: int
    at: str
    type: Literal["restarted"]
    data: RestartedData


class ResultRead(TypedDict):
    mean_perplexity: NotRequired[float | None]
    dense_mean_perplexity: NotRequired[float | None]
    bwt: NotRequired[float | None]
    log_bwt: NotRequired[float | None]
    manifest_digest: str
    bytes: int
    files: int
    sparsity: NotRequired[float | None]
    masks_sha256: NotRequired[str | None]
    weights_sha256: NotRequired[str | None]
    warnings: NotRequired[list[JobWarning]]


class RetriedData(TypedDict):
    job: str


class RetriedEvent(TypedDict):
    seq: int
    at: str
    type: Literal["retried"]
    data: RetriedData


class RowRead(TypedDict):
    row: int
    stage: int | None
    lineage_stage: int | None
    job: str | None
    after: str | None
    further: NotRequired[float | str | None]
    perplexity: dict[str, float | None]


class SensitivityRead(TypedDict):
    job: str
    stage: int
    lineage_stage: int
    domain: str
    block: int
    share: float | None
    matrix: str
    basis: Basis
    mean: float
    total: float
    quantiles: dict[str, float]
    histogram: dict[str, Any]


class SkippedTensor(TypedDict):
    name: str
    reason: str
    weights: int


class SparseGpt(TypedDict):
    name: Literal["sparsegpt"]
    mode: NotRequired[Literal["accumulated", "restart", "sequential"]]
    objective: NotRequired[Literal["mean", "least_forgetting"]]
    recency: NotRequired[float | None]
    comparison_group: NotRequired[Literal["row", "matrix"]]
    inputs: NotRequired[Literal["pruned", "dense", "dense_to_half"] | None]
    refine: NotRequired[Literal["none", "norms", "block", "model"] | None]
    refinement: NotRequired[Refinement | None]
    target: NotRequired[Literal["dense", "prefix"] | None]
    output_weighting: NotRequired[Literal["none", "gradients"] | None]
    weight_update: NotRequired[Literal["none", "admm"]]
    admm: NotRequired[AdmmSettings | None]
    sparsegpt: NotRequired[SparseGptSettings]


class SparseGptSettings(TypedDict):
    block: NotRequired[int]
    damping: NotRequired[float]


class Sparsity(TypedDict):
    pattern: NotRequired[str]
    target: NotRequired[float | None]
    allocation: NotRequired[Literal["uniform", "owl", "error"] | None]
    curvature: NotRequired[Literal["adapting", "plain"] | None]
    survey_tokens: NotRequired[int | None]
    channels: NotRequired[Literal["as_stored", "permuted"] | None]
    keep_zeros: NotRequired[bool]
    overrides: NotRequired[list[Override]]
    further: NotRequired[list[float | str]]
    further_statistics: NotRequired[Literal["own", "shared"] | None]


class StageFinishedData(TypedDict):
    stage: int
    domain: str
    sparsity: float | None
    seconds: float | None


class StageFinishedEvent(TypedDict):
    seq: int
    at: str
    type: Literal["stage_finished"]
    data: StageFinishedData


class StageRead(TypedDict):
    sparsity: float | None
    weights: int | None
    zeros: int | None
    calibration_tokens: int | None
    relative_error: float | None
    held_out_error: float | None
    mask_overlap: float | None
    seconds: float | None
    stage: int
    lineage_stage: int
    domain: str
    state: Literal["pending", "running", "done"]
    blocks_done: int
    blocks: int | None
    started_at: str | None
    finished_at: str | None


class StageStartedData(TypedDict):
    stage: int
    domain: str


class StageStartedEvent(TypedDict):
    seq: int
    at: str
    type: Literal["stage_started"]
    data: StageStartedData


class TakenOverData(TypedDict):
    job: str
    blocks: int


class TakenOverEvent(TypedDict):
    seq: int
    at: str
    type: Literal["taken_over"]
    data: TakenOverData


class TaskMetric(TypedDict):
    name: str
    filter: NotRequired[str]
    value: float
    stderr: NotRequired[float | None]
    higher_is_better: NotRequired[bool | None]


class TaskRead(TypedDict):
    task: int
    name: str
    model: Literal["dense", "pruned"]
    metrics: list[TaskMetric]
    rows: int | None
    few_shot: int | None
    limit: int | None
    max_tokens: int | None
    truncated: int | None
    dtype: str | None
    harness: str | None
    version: str | None
    text_sha256: str | None
    error: str | None


TransitionData = TypedDict(
    "TransitionData", {"from": "State", "to": "State", "reason": "str | None", "message": "str | None"}
)


class TransitionEvent(TypedDict):
    seq: int
    at: str
    type: Literal["transition"]
    data: TransitionData


class TwoRead(TypedDict):
    job: float | None
    other: float | None
    difference: float | None


class UploadedFile(TypedDict):
    format: FileFormat
    compression: Compression
    text_field: str | None
    bytes: int
    sha256: str
    null_rows: NotRequired[int | None]


class UploadedFileRead(TypedDict):
    path: str
    bytes: int
    sha256: str
    received: int


class UploadedFiles(TypedDict):
    object: NotRequired[Literal["list"]]
    data: list[UploadedFileRead]


class UsageRead(TypedDict):
    object: NotRequired[Literal["usage"]]
    project: str
    quotas: dict[str, QuotaUsage]


class VerificationRead(TypedDict):
    ok: bool
    files: list[CheckedFileRead]


class WaitRead(TypedDict):
    code: WaitsFor
    id: NotRequired[str | None]
    until: NotRequired[str | None]
    needs: NotRequired[Needs | None]


class Wanda(TypedDict):
    name: Literal["wanda"]
    mode: NotRequired[Literal["accumulated", "restart", "sequential"]]
    objective: NotRequired[Literal["mean", "least_forgetting"]]
    recency: NotRequired[float | None]
    comparison_group: NotRequired[Literal["row", "matrix"]]
    inputs: NotRequired[Literal["pruned", "dense", "dense_to_half"] | None]
    refine: NotRequired[Literal["none", "norms", "block", "model"] | None]
    refinement: NotRequired[Refinement | None]
    weight_update: NotRequired[Literal["none", "admm"]]
    admm: NotRequired[AdmmSettings | None]
    mask: NotRequired[Literal["selected", "searched"] | None]
    target: NotRequired[Literal["dense", "prefix"] | None]
    output_weighting: NotRequired[Literal["none", "gradients"] | None]


class WebhookRead(TypedDict):
    id: str
    object: NotRequired[Literal["webhook"]]
    url: str
    description: str
    events: list[EventType] | None
    states: list[State] | None
    labels: dict[str, str]
    enabled: bool
    disabled_reason: str | None
    failures: int
    failing_since: str | None
    previous_secret_until: str | None
    created_at: str
    updated_at: str


class WebhookWithSecret(TypedDict):
    id: str
    object: NotRequired[Literal["webhook"]]
    url: str
    description: str
    events: list[EventType] | None
    states: list[State] | None
    labels: dict[str, str]
    enabled: bool
    disabled_reason: str | None
    failures: int
    failing_since: str | None
    previous_secret_until: str | None
    created_at: str
    updated_at: str
    secret: str


class Whoami(TypedDict):
    object: NotRequired[Literal["whoami"]]
    project: WhoamiProject
    key: KeyRead
    limits: dict[str, int | None]


class WhoamiProject(TypedDict):
    id: str
    name: str


class WorkerFit(TypedDict):
    kind: str
    device: str
    workers: NotRequired[int | None]
    fits: bool
    lacks: list[Lack]
    host_bytes: float
    device_bytes: float
    disk_bytes: float
    seconds: float
    parts: dict[str, float]


Basis: TypeAlias = Literal["domain", "accumulated"]


Cause: TypeAlias = Literal["user", "system"]


Compression: TypeAlias = Literal["none", "gzip", "zstd"]


DeliveryState: TypeAlias = Literal["pending", "succeeded", "failed", "skipped"]


EventType: TypeAlias = Literal[
    "created",
    "transition",
    "cancel_requested",
    "changed",
    "retried",
    "taken_over",
    "phase",
    "attempt_started",
    "attempt_ended",
    "stage_started",
    "stage_finished",
    "evaluated",
    "checkpoint_dropped",
    "restarted",
    "published",
    "copied",
    "note",
]


FileFormat: TypeAlias = Literal["txt", "jsonl", "csv", "parquet"]


IntakeState: TypeAlias = Literal["pending", "ready", "failed"]


KeyState: TypeAlias = Literal["alive", "expired", "revoked"]


Lack: TypeAlias = Literal["device_memory", "memory", "disk", "harness"]


ModelState: TypeAlias = Literal["uploading", "pending", "ready", "failed"]


Phase: TypeAlias = Literal["staging", "evaluating", "surveying", "pruning", "tuning", "publishing"]


PostError: TypeAlias = Literal[
    "unknown_host", "refused_address", "not_connected", "tls_failed", "timeout", "broken_off", "bad_status", "gone"
]


Quota: TypeAlias = Literal[
    "queued_jobs", "running_jobs", "pending_tasks", "running_intakes", "stored_bytes", "uploads", "upload_bytes"
]


State: TypeAlias = Literal[
    "queued", "running", "pausing", "paused", "cancelling", "succeeded", "failed", "cancelled"
]


WaitsFor: TypeAlias = Literal[
    "model", "dataset", "backoff", "estimate", "memory", "harness", "quota", "jobs", "worker"
]


EventRead: TypeAlias = (
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
