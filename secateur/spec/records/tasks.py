"""What a model reached in a task of the lm-evaluation-harness."""

from typing import Literal

from pydantic import Field

from secateur.spec.records.history import Count, Digest, List, Number, Record, Words

AskedModel = Literal["dense", "pruned"]


class TaskMetric(Record):
    """One figure of a task."""

    name: str = Field(description="`acc`, `acc_norm` (by a choice's length in characters), `exact_match`, …")
    filter: str = Field(default="none", description="What the harness did to answers before it judged them.")
    value: float
    stderr: float | None = Field(default=None, description="Standard error; null where the harness knows none.")
    higher_is_better: bool | None = None


class BrokenTask(Record):
    """An attempt ended while a model did this task."""

    task: Number
    model: AskedModel
    why: Words = Field(description="How the attempt ended.")


class TaskScores(Record):
    """One model's figures in one task. Figures compare where all that is beside `model` is the same."""

    task: Number = Field(description="Its place in the spec's `tasks`.")
    name: str
    model: AskedModel = Field(description="`pruned`: after the stage of the last domain.")
    metrics: List[TaskMetric] = Field(default=[])
    rows: Count | None = Field(default=None, description="Questions that were asked.")
    few_shot: Number | None = Field(default=None, description="Null for a group whose tasks differ in it.")
    limit: Count | None = Field(default=None, description="As asked for.")
    max_tokens: Count | None = Field(
        default=None,
        description="Longest input: the model's positions, 4096 at the most. A longer one loses its beginning.",
    )
    truncated: Count | None = Field(
        default=None,
        description="Inputs that lost their beginning; of a question with several choices each choice is one.",
    )
    dtype: str | None = Field(default=None, description="Of weights and products.")
    harness: str | None = Field(default=None, description="Version of lm-eval.")
    version: str | None = Field(default=None, description="Of the task, as the harness counts it.")
    text_sha256: Digest | None = Field(default=None, description="Of the dataset that the questions are from.")
    error: Words | None = Field(default=None, description="Why there are no figures.")
