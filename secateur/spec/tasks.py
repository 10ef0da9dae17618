"""Tasks of EleutherAI's lm-evaluation-harness, which a job does with the dense model and with its result."""

from typing import Annotated, Final

from pydantic import Field, StringConstraints

from secateur.spec.strict import Strict
from secateur.spec.words import shaped

MOST_TASKS: Final = 16
TaskName = Annotated[
    str,
    StringConstraints(
        pattern=shaped(
            r"^[A-Za-z0-9][A-Za-z0-9_.+()-]{0,99}$",
            "1 to 100 letters, digits and `_ . + ( ) -`, the first a letter or digit",
        )
    ),
]


class HarnessTask(Strict):
    """Questions whose answers are known."""

    name: TaskName = Field(
        description="One of the harness's own tasks or groups (`arc_easy`, `mmlu`), whose data the workers must "
        "have; with `dataset` any name that you like."
    )
    dataset: str | None = Field(
        default=None,
        max_length=100,
        description="`ds_…`: JSON lines that were uploaded, each a question of several choices: "
        '`{"question": "…", "choices": ["…", "…"], "answer": 0}`, the answer by its place, from 0. The likeliest '
        "continuation of the question counts as the model's choice.",
    )
    few_shot: int | None = Field(
        default=None,
        ge=0,
        le=64,
        description="Solved questions before each. null: the task's own number; 0 with a `dataset`.",
    )
    limit: int | None = Field(
        default=None, ge=1, le=1_000_000, description="At most so many questions, of each task of a group."
    )


Tasks = Annotated[tuple[HarnessTask, ...], Field(strict=False)]
