"""Figures of a finished job: R, backward transfer, digests. No clock, no path: equal jobs give equal reports."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from secateur.spec.job import Domain
from secateur.spec.method import Mask, Mode, Scope, WeightUpdate
from secateur.spec.metrics import figures, mean
from secateur.spec.records.history import JobWarning
from secateur.spec.records.pipe import Summary
from secateur.spec.records.plan import SkippedTensor
from worker.engine_format import ENGINE_FORMAT
from worker.pruning.calibration.windows import held_out_indices
from worker.pruning.evaluation.losses import TestSet
from worker.pruning.methods.registry import SOLVERS
from worker.pruning.model.graph import ModelGraph
from worker.pruning.report.records import mask_overlap
from worker.pruning.report.warnings import after_pruning, after_stage
from worker.pruning.request import PruningJob
from worker.pruning.state.digests import total

REPORT = "report.json"


@dataclass(frozen=True)
class Finished:
    """What the report is made of. rows: the lineage's R with the dense row first, a column for each evaluated
    domain. records: per stage of this job, the matrices' records. calibration: sha256 of each of its domains'
    calibration text. settings: what the bytes depend on beside the job. warnings: what the texts alone say.
    skipped: tensors that stay as they are, and why. prefix: what every window begins with.
    scope: among which weights scores competed."""

    job: PruningJob
    graph: ModelGraph
    sets: list[TestSet]
    rows: list[list[float | None]]
    records: list[list[dict[str, Any]]]
    calibration: list[str]
    settings: dict[str, Any]
    warnings: list[JobWarning]
    skipped: list[SkippedTensor]
    prefix: tuple[int, ...]
    scope: Scope


def final_report(done: Finished) -> tuple[dict[str, Any], Summary]:
    """The report and its summary. Zeros and digests were taken from the tensors as they were written."""
    columns = [item.domain for item in done.sets]
    entries = {
        (row, domain): value
        for row, values in enumerate(done.rows)
        for domain, value in zip(columns, values, strict=True)
        if value is not None
    }
    last = stage_figures(done.records[-1])
    found = figures(done.job.lineage, entries)
    summary = Summary(
        **{name: last[name] for name in ("weights", "zeros", "sparsity", "masks_sha256", "weights_sha256")},
        **found.model_dump(),
        warnings=[*done.warnings, *_after_stages(done), *after_pruning(found.bwt, found.log_bwt)],
    )
    report = {
        "engine_format": ENGINE_FORMAT,
        "settings": done.settings,
        "model": {
            "architecture": type(done.graph.model).__name__,
            "blocks": len(done.graph.blocks),
            "prefix": list(done.prefix),
        },
        "method": _method(done.job, done.scope),
        "sparsity": done.job.sparsity.model_dump(mode="json"),
        "output": done.job.output.model_dump(mode="json"),
        "lineage": {"first_stage": done.job.first_stage, "domains": list(done.job.lineage)},
        "domains": [_domain(d, sha) for d, sha in zip(done.job.domains, done.calibration, strict=True)],
        "evaluation": _evaluation(done, columns),
        "stages": [_stage(done, stage) for stage in range(len(done.job.domains))],
        "matrices": done.records,
        "skipped": [each.model_dump() for each in done.skipped],
        "summary": summary.model_dump(),
    }
    return report, summary


def _method(job: PruningJob, scope: Scope) -> dict[str, Any]:
    method = job.method
    found = method.model_dump(mode="json", exclude={"objective", "recency"}) | {"comparison_group": scope}
    if method.mode is Mode.accumulated:
        found |= {"objective": method.objective, "recency": method.keeps}
    if method.update is not None:
        found.setdefault("mask", Mask.selected)
    if found.get("weight_update") == WeightUpdate.none:
        del found["weight_update"]
    if candidates := SOLVERS[method.name].candidates:
        found["candidates"] = [candidate.label for candidate in candidates]
    return found


def _domain(domain: Domain, digest: str) -> dict[str, Any]:
    calibration = domain.calibration
    return {
        "name": domain.name,
        "weight": domain.weight,
        "calibration": {
            "text_sha256": digest,
            "samples": calibration.samples,
            "sequence_length": calibration.sequence_length,
            "seed": calibration.seed,
            "documents": calibration.documents,
            "held_out": calibration.held_out,
            "held_out_windows": len(held_out_indices(calibration.samples, calibration.held_out)),
        },
    }


def _evaluation(done: Finished, columns: list[str]) -> dict[str, Any]:
    after = [None, *done.job.lineage]
    rows = [
        {"row": row, "after": after[row], "perplexity": dict(zip(columns, values, strict=True))}
        for row, values in enumerate(done.rows)
    ]
    return {"domains": columns, "rows": rows, "protocols": {item.domain: item.protocol for item in done.sets}}


def stage_figures(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts of one stage, means of its matrices' errors, digests, and the overlap of the masks."""
    weights = sum(record["weights"] for record in records)
    zeros = sum(record["zeros"] for record in records)
    errors = {kind: mean([record[kind] for record in records]) for kind in ("relative_error", "held_out_error")}
    digests = {"masks_sha256": total(records, "mask_sha256"), "weights_sha256": total(records, "weights_sha256")}
    masks = {**digests, "mask_overlap": mask_overlap(records)}
    return {"weights": weights, "zeros": zeros, "sparsity": zeros / weights, **errors, **masks}


def _stage(done: Finished, stage: int) -> dict[str, Any]:
    domain = done.job.domains[stage]
    return {
        "stage": stage,
        "domain": domain.name,
        **stage_figures(done.records[stage]),
        "calibration_tokens": domain.calibration.tokens,
        "experts": _experts(done.records[stage]),
    }


def _after_stages(done: Finished) -> Iterator[JobWarning]:
    for stage, domain in enumerate(done.job.domains):
        yield from after_stage(stage, domain.name, done.records[stage])


def _experts(records: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Module → calibration tokens of each expert, and the matrices which are starved."""
    modules: dict[str, dict[str, Any]] = {}
    for record in records:
        if (expert := record["notes"].get("expert")) is None:
            continue
        module = modules.setdefault(expert["module"], {"tokens": {}, "fallback": []})
        module["tokens"][str(expert["index"])] = expert["tokens"]
        if expert["stand_ins"]:
            module["fallback"].append(record["matrix"])
    return modules
