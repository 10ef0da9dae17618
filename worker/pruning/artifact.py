"""How many bytes a job's artifact will have, from shapes alone."""

from collections.abc import Mapping
from typing import Final

from secateur.spec.output import Form
from secateur.spec.records.plan import Estimate
from worker.pruning.estimate import state_bytes
from worker.pruning.model.checkpoint import STORED
from worker.pruning.subject import Subject
from worker.pruning.targets.budget import WeightTarget, assign

_SCORE: Final = 2
"""Bytes of a score, mostly."""
_HOW: Final = (
    "Every model of the artifact in the form {form}, as many as there are further targets and, where stages are "
    "kept, domains; the accumulated statistics of all domains; scores in float16 where they are kept. Shares that "
    "an allocation moves between matrices are counted as planned. Left out: tokenizer, report and headers, and "
    "zeros that the dense model has already."
)


def artifact(subject: Subject) -> Estimate:
    """Bytes in the store once the job has succeeded."""
    job, domains = subject.job, len(subject.job.domains)
    shares = [subject.shares] * (domains if job.output.keep_stages else 1)
    shares += [assign(subject.graph.matrices, job.sparsity.at(further)) for further in job.sparsity.further]
    parts = {
        "models": float(sum(_model_bytes(subject, each) for each in shares)),
        "state": state_bytes(subject, job.first_stage + domains),
    }
    if job.output.keep_sensitivities:
        weights = sum(each.matrix.weights for each in subject.shares.values() if each.zeros is not None)
        parts["sensitivities"] = float(domains * _SCORE * weights)
    return Estimate(total=sum(parts.values()), parts=parts, how=_HOW.format(form=job.output.form))


def _model_bytes(subject: Subject, shares: Mapping[str, WeightTarget]) -> int:
    """One model's weights in the job's form."""
    form, tensors = subject.job.output.form, subject.checkpoint.tensors
    if form is Form.dense:
        return sum(info.bytes for info in tensors.values())
    zeros: dict[str, int] = {}
    for each in shares.values():
        if each.zeros is not None:
            zeros[each.matrix.tensor] = zeros.get(each.matrix.tensor, 0) + each.zeros
    found = 0
    for name, info in tensors.items():
        mask, width = (info.numbers + 7) // 8, STORED[info.dtype].itemsize
        if form is Form.masks:
            found += mask if zeros.get(name) else 0
        else:
            found += min(info.bytes, mask + width * (info.numbers - zeros.get(name, 0)))
    return found
