"""What a job delivers, and what is kept beside its model."""

from typing import Annotated

from pydantic import Field, StringConstraints

from secateur.spec.method import Method
from secateur.spec.sparsity import Channels, Sparsity
from secateur.spec.strict import Choice, Strict
from secateur.spec.words import shaped

Prefix = Annotated[
    str,
    StringConstraints(
        max_length=200,
        pattern=shaped(
            r"^[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)*$",
            "a folder, without a slash in front or behind, of letters, digits and `_ . -`; every part begins "
            "with a letter or digit",
        ),
    ),
]


class Precision(Choice):
    """Of the Gram matrices in a state."""

    float16 = "float16"
    float32 = "float32"


class Form(Choice):
    """Of the weights of the models that a job delivers."""

    dense = "dense"
    packed = "packed"
    masks = "masks"


class Output(Strict):
    """What is delivered, and what is kept beside the pruned model, for later."""

    form: Form = Field(
        default=Form.dense,
        description="Of the weights of every model in the artifact. `dense`: a plain checkpoint, zeros and all. "
        "`packed`: of each tensor a bitmask and the numbers that are not zero; `secateur unpack` makes the same "
        "plain checkpoint of it. `masks`: bitmasks alone, for methods that change no weight that stays; "
        "unpacking takes the dense model, whose digest the manifest and the model card say.",
    )
    state_precision: Precision = Field(
        default=Precision.float16,
        description="Of the Gram matrices in the final state. `float16`: of the correlations, beside the exact "
        "diagonal in float32; `float32`: twice the size.",
    )
    keep_domain_statistics: bool = Field(
        default=False,
        description="Keep each domain's own Gram beside the sum, through the whole lineage, so that every later "
        "weight's error is known for each domain.",
    )
    keep_sensitivities: bool = Field(
        default=False, description="Keep every weight's score of every stage as files of the artifact."
    )
    keep_stages: bool = Field(
        default=False,
        description="Keep the model of every stage in the artifact, each a folder of its own: `stage-00/model/…` "
        "and so on, beside the last one's `model/…`.",
    )
    publish_to: Prefix | None = Field(
        default=None,
        description="Once the job has succeeded, copy its model as a folder, in its `form`, to this place of the "
        "project's own in the store: `projects/{project}/published/{publish_to}`. It is the job's until that is "
        "deleted.",
    )


def changes_of(method: Method, sparsity: Sparsity) -> str | None:
    """The first option by which weights that stay do not stay as they were, by name and value; None without."""
    if method.solves:
        return f"`method.name` {method.name}"
    if method.update is not None:
        return "`method.weight_update` admm"
    if method.refinement is not None:
        return f"`method.refine` {method.refine}"
    for number, override in enumerate(sparsity.overrides):
        if method.named(override.method).updates_weights:
            return f"`sparsity.overrides[{number}].method` {override.method}"
    if sparsity.channels is Channels.permuted:
        return f"`sparsity.channels` {sparsity.channels}"
    return None
