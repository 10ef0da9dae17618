"""What a run says of a job: plain numbers and texts of the API's answers, in MLflow's forms."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from secateur.transport import Answer

JOB_TAG: Final = "secateur.job"
STATUS: Final = {"succeeded": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}
"""A finished job's state as a run's; every other one is RUNNING."""
RESULTS: Final = ("sparsity", "mean_perplexity", "dense_mean_perplexity", "bwt", "log_bwt", "bytes")
DIGESTS: Final = ("manifest_digest", "masks_sha256", "weights_sha256")
VALUE_CHARACTERS: Final = 6000
"""MLflow takes no longer value of a parameter; the whole spec is in `job.json`."""
NAME_CHARACTERS: Final = 250


@dataclass(frozen=True)
class Answers:
    """What the API says of a job. datasets: sha256 by id."""

    job: Answer
    model: Answer
    datasets: Mapping[str, str]
    evaluation: Answer
    stages: Sequence[Answer]


@dataclass(frozen=True)
class Measured:
    """A value of a metric. step: the row of R, or the stage of the lineage. at: milliseconds since 1970."""

    name: str
    value: float
    step: int
    at: int


def parameters(answers: Answers) -> dict[str, str]:
    """The spec field by field (`method.name`, `domains.0.calibration.seed`), and digests of what went in."""
    job = answers.job
    found = {name: _short(value) for name, value in _leaves(job["spec"])}
    found["spec_digest"] = job["spec_digest"]
    if (digest := answers.model.get("digest")) is not None:
        found["model_digest"] = digest
    for number, domain in enumerate(job["spec"]["domains"]):
        for use in ("dataset", "evaluation"):
            if (sha256 := answers.datasets.get(domain.get(use) or "")) is not None:
                found[f"domains.{number}.{use}_sha256"] = sha256
    return {_name(name): value for name, value in found.items()}


def metrics(answers: Answers) -> list[Measured]:
    """R, its ratios to the dense model's, what follows from R, and each stage's figures."""
    at = milliseconds(answers.job["finished_at"] or answers.job["created_at"])
    result = answers.job.get("result") or {}
    found = [*_perplexities(answers.evaluation, at), *_stages(answers.stages, at)]
    found += [Measured(name, result[name], 0, at) for name in RESULTS if result.get(name) is not None]
    found.append(Measured("runtime_seconds", answers.job["runtime_seconds"], 0, at))
    return [each for each in found if math.isfinite(each.value)]


def tags(answers: Answers, url: str) -> dict[str, str]:
    """What names the job and its artifact, what it came to, and its labels. url: of the service."""
    job, result = answers.job, answers.job.get("result") or {}
    found = {
        JOB_TAG: job["id"],
        "secateur.state": job["state"],
        "secateur.lineage": job["lineage"],
        "secateur.page": f"{url}/ui/jobs/{job['id']}",
        "mlflow.source.name": "secateur",
    }
    found |= {f"secateur.{name}": str(result[name]) for name in DIGESTS if result.get(name) is not None}
    if result:
        found["secateur.artifact"] = f"{url}/v1/jobs/{job['id']}/artifacts"
    if failure := job.get("failure"):
        found |= {"secateur.failure": failure["code"], "secateur.failure.message": failure["message"]}
    return found | {_name(f"label.{name}"): value for name, value in job["labels"].items()}


def milliseconds(text: str) -> int:
    """A time of the API as MLflow has times."""
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def _perplexities(evaluation: Answer, at: int) -> Iterator[Measured]:
    """A further target's row is no step of the domains' way: it has metrics of its own."""
    dense: Mapping[str, Any] = next((row["perplexity"] for row in evaluation["rows"] if row["row"] == 0), {})
    for row in evaluation["rows"]:
        further = row.get("further")
        place = f"further/{further}/" if further is not None else ""
        for domain, value in row["perplexity"].items():
            if value is None:
                continue
            yield Measured(_name(f"{place}perplexity/{domain}"), value, row["row"], at)
            if dense.get(domain):
                yield Measured(_name(f"{place}ratio/{domain}"), value / dense[domain], row["row"], at)


def _stages(stages: Sequence[Answer], at: int) -> Iterator[Measured]:
    figures = ("sparsity", "relative_error", "held_out_error", "mask_overlap", "calibration_tokens", "seconds")
    for stage in stages:
        for name in figures:
            if stage.get(name) is not None:
                yield Measured(f"stage/{name}", stage[name], stage["lineage_stage"], at)


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every scalar of a document with the path to it; what is null says nothing."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if inner is None:
        if value is not None:
            yield name, value
        return
    for key, each in inner:
        yield from _leaves(each, f"{name}.{key}" if name else str(key))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= VALUE_CHARACTERS else text[: VALUE_CHARACTERS - 1] + "…"


def _name(text: str) -> str:
    """With the characters that MLflow takes in a name."""
    return re.sub(r"[^\w./ -]", "-", text, flags=re.ASCII)[:NAME_CHARACTERS]
