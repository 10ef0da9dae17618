"""Figures of a finished job: R, backward transfer, digests. No clock, no path: equal jobs give equal reports."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from secateur.spec.job import Domain
from secateur.spec.method import Mask, Mode, Scope, WeightUpdate
from secateur.spec.metrics import figures, mean
from secateur.spec.records.pipe import Summary
from secateur.spec.records.tasks import TaskScores
from secateur.spec.sparsity import further_name
from worker.engine_format import ENGINE_FORMAT
from worker.pruning.allocation.allocate import comparison_group
from worker.pruning.calibration.windows import held_out_indices
from worker.pruning.evaluation.r_matrix import Entries
from worker.pruning.methods.registry import SOLVERS
from worker.pruning.model.block_runner import BATCH_TOKENS
from worker.pruning.plan import skipped
from worker.pruning.report.records import mask_overlap, refined
from worker.pruning.report.warnings import after_pruning, after_stage, after_tasks
from worker.pruning.request import PruningJob
from worker.pruning.runtime.fingerprint import pinned
from worker.pruning.state.context import PreparedRun
from worker.pruning.state.digests import total
from worker.pruning.subject import Subject

REPORT = "report.json"


def final_report(
    run: PreparedRun,
    entries: Entries,
    records: Sequence[list[dict[str, Any]]],
    tasks: Sequence[TaskScores] = (),
) -> tuple[dict[str, Any], Summary]:
    """The report and its summary. Zeros and digests were taken from the tensors as they were written.

    records: per stage of this job, the matrices' records. tasks: in their order, each by the dense model first.
    """
    job, graph, domains = run.job, run.runner.graph, run.job.domains
    columns = {item.domain for item in run.sets}
    found = figures(job.lineage, {place: value for place, value in entries.items() if place[1] in columns})
    stages = [stage_figures(each) for each in records]
    after = [after_stage(stage, name, records[stage]) for stage, name in enumerate(job.stage_names)]
    summary = Summary(
        **{
            name: stages[len(domains) - 1][name]
            for name in ("weights", "zeros", "sparsity", "masks_sha256", "weights_sha256")
        },
        **found.model_dump(),
        warnings=[
            *run.warnings,
            *chain.from_iterable(after),
            *after_tasks(tasks),
            *after_pruning(found.bwt, found.log_bwt),
        ],
    )
    report = {
        "engine_format": ENGINE_FORMAT,
        "settings": pinned(job.threads, BATCH_TOKENS, run.device, run.dtype, job.numerics),
        "model": {
            "architecture": type(graph.model).__name__,
            "blocks": len(graph.blocks),
            "prefix": list(run.windows[-1].prefix),
        },
        "effort": job.effort,
        "method": _method(job, comparison_group(job, job.method, run.targets)),
        "sparsity": job.sparsity.model_dump(mode="json"),
        "output": job.output.model_dump(mode="json"),
        "lineage": {"first_stage": job.first_stage, "domains": list(job.lineage)},
        "domains": [_domain(domain, digest) for domain, digest in zip(domains, run.digests, strict=True)],
        "evaluation": _evaluation(run, entries),
        **({"tasks": [each.model_dump() for each in tasks]} if tasks else {}),
        "stages": [_stage(run, stage, stages[stage], records[stage]) for stage in range(len(stages))],
        "matrices": records,
        "skipped": [each.model_dump() for each in skipped(Subject(job, graph, run.source, run.targets))],
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


def _evaluation(run: PreparedRun, entries: Entries) -> dict[str, Any]:
    """A lineage's earlier models were not run on the text of a later domain."""
    columns = [item.domain for item in run.sets]
    rows = [
        {"row": row, "after": after, "perplexity": {name: entries.get((row, name)) for name in columns}}
        for row, after in enumerate([None, *run.job.lineage, *map(further_name, run.job.sparsity.further)])
    ]
    return {"domains": columns, "rows": rows, "protocols": {item.domain: item.protocol for item in run.sets}}


def _stage(run: PreparedRun, stage: int, figures: dict[str, Any], records: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "stage": stage,
        "domain": run.job.stage_names[stage],
        **figures,
        "calibration_tokens": run.job.calibration_tokens(stage),
        "experts": _experts(records),
        **({} if (tuned := refined(records)) is None else {"refine": tuned}),
    }


def stage_figures(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts of one stage, means of its matrices' errors, digests, and the overlap of the masks."""
    weights = sum(record["weights"] for record in records)
    zeros = sum(record["zeros"] for record in records)
    errors = {kind: mean([record[kind] for record in records]) for kind in ("relative_error", "held_out_error")}
    digests = {"masks_sha256": total(records, "mask_sha256"), "weights_sha256": total(records, "weights_sha256")}
    masks = {**digests, "mask_overlap": mask_overlap(records)}
    return {"weights": weights, "zeros": zeros, "sparsity": zeros / weights, **errors, **masks}


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
