"""Whether a job may deliver masks alone: somebody must have the dense model that these are of."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from app.kit.problems import FieldError, Invalid
from app.models import repository as models
from app.tables.jobs import Job
from secateur.spec.job import JobCreate
from secateur.spec.method import Mode, read_method
from secateur.spec.output import Form, changes_of
from secateur.spec.sparsity import Sparsity


def check_masks(session: Session, project: str, asked: JobCreate, path: Sequence[Job]) -> None:
    """path: the jobs before it in its lineage. Raises Invalid."""
    if asked.output.form is not Form.masks:
        return
    model = models.find_for_use(session, project, asked.model)
    reason = None
    if model is not None and model.source.get("type") == "gguf":
        reason = "the model was made of a GGUF file here, and nobody else has its dense weights"
    elif asked.method.mode is Mode.sequential and any(_changes(job) for job in path):
        reason = "in mode sequential the job begins with weights that the lineage has changed"
    if reason is not None:
        message = f"masks take the dense model to be unpacked, and {reason}: choose `packed`"
        raise Invalid(errors=[FieldError(message, pointer="/output/form")])


def _changes(job: Job) -> bool:
    """Whether the weights that stay in a job's model are other ones than before."""
    sparsity = Sparsity.model_validate(job.spec["sparsity"])
    return changes_of(read_method(job.spec["method"]), sparsity) is not None
