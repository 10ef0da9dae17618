"""What a survey will need of memory and disk, from shapes alone."""

from secateur.spec.method import Refine
from secateur.spec.sparsity import Allocation
from worker.pruning.cost import survey_tokens
from worker.pruning.subject import FLOAT, Subject, width
from worker.pruning.targets.budget import weighs_outputs


def surveys_loss(subject: Subject) -> bool:
    """Whether a stage passes back through a model, a block at a time: through the dense one for a survey, or
    through the pruned one to tune its norms, which takes no more."""
    job = subject.job
    surveyed = job.sparsity.allocation is Allocation.error or weighs_outputs(job.method, subject.shares)
    return surveyed or job.method.refine is Refine.norms


def surveyed_bytes(subject: Subject) -> int:
    """Hidden states of all tokens of a survey that goes back, at one place of the model."""
    if not surveys_loss(subject):
        return 0
    job = subject.job
    tokens = max(survey_tokens(job, domain.calibration) for domain in job.domains)
    return FLOAT * width(subject.graph) * tokens
