"""What an engine says, made up."""

from collections.abc import Sequence
from typing import Any

from secateur.spec.records.device import Fingerprint
from secateur.spec.records.history import Basis, JobWarning, MatrixRecord, SensitivitySummary
from secateur.spec.records.pipe import (
    BlockResult,
    Engine,
    Evaluation,
    Hello,
    StageResult,
    Summary,
    TaskBegun,
    TaskResult,
)
from secateur.spec.records.plan import PlanResult, SkippedTensor
from secateur.spec.records.tasks import TaskMetric
from worker.engine_format import ENGINE_FORMAT

BLOCKS = 4
SKIPPED = [
    {"name": "norm.0", "reason": "not a matrix (Norm)", "weights": 2},
    {"name": "norm.1", "reason": "not a matrix (Norm)", "weights": 2},
    {"name": "embedding", "reason": "outside the decoder blocks (Embedding)", "weights": 100},
]
DIGESTS = {"masks_sha256": "0" * 64, "weights_sha256": "0" * 64}
ESTIMATE = {"total": 1.0, "parts": {"model": 1.0}, "how": "made up"}
PLAN = PlanResult.model_validate(
    {
        "architecture": "Llama",
        "blocks": BLOCKS,
        "parameters": 100,
        "pattern": "unstructured",
        "allocation": "uniform",
        "weights": 4,
        "zeros": 2,
        "sparsity": 0.5,
        "matched": [],
        "skipped": SKIPPED,
        "overrides": [],
        "overlaps": [],
        "estimates": dict.fromkeys(("memory_bytes", "disk_bytes", "seconds"), ESTIMATE),
    }
)


def fingerprint(name: str, **changes: Any) -> Fingerprint:
    """A GPU of a model."""
    known = {"type": "cuda", "name": name, "capability": "9.0", "threads": 1, "libraries": {"torch": "2"}}
    return Fingerprint.model_validate(known | {"precision": {}, "driver": "580.1", "uuid": f"of {name}"} | changes)


def hello(threads: int = 1, isolation: dict[str, bool] | None = None, device: Fingerprint | None = None) -> Hello:
    what = {"versions": {"script": "1"}, "device": "cpu", "threads": threads, "isolation": isolation or {}}
    what |= {"fingerprint": device}
    engine = Engine(engine_format=ENGINE_FORMAT, **what)
    return Hello(engine=engine, blocks=BLOCKS, skipped=[SkippedTensor(**each) for each in SKIPPED])


def evaluation(row: int) -> Evaluation:
    counted = {"windows": 1, "tokens": 4, "window_losses": [2.3], "protocol": {"dtype": "float32"}}
    return Evaluation(row=row, domain="d0", perplexity=10.0 + row, loss=2.3, **counted)


def matrix_record(matrix: str, **figures: Any) -> MatrixRecord:
    size = {"rows": 2, "columns": 2, "weights": 4, "zeros": 2, "sparsity": 0.5, "target": 0.5}
    solved = {"pattern": "unstructured", "solver": "script", "seconds": 0.1}
    errors = dict.fromkeys(("relative_error", "held_out_error"))
    return MatrixRecord(**{"matrix": matrix} | size | solved | errors | figures)


def block_result(stage: int, block: int, files: Sequence[tuple[str, str]] = ()) -> BlockResult:
    matrix = matrix_record(f"block.{block}")
    scores = SensitivitySummary(
        matrix=matrix.matrix, basis=Basis.accumulated, mean=1.0, total=4.0, quantiles={}, histogram={}
    )
    return BlockResult(stage=stage, block=block, files=list(files), records=[matrix], sensitivity=[scores])


def task_result(task: int = 0, model: str = "dense", error: str | None = None) -> TaskResult:
    metric = TaskMetric(name="acc", value=0.5, stderr=0.1, higher_is_better=True)
    counted: dict[str, Any] = {"rows": 12, "few_shot": 0, "harness": "0.4.13"}
    return TaskResult(
        task=task, name="own", model=model, metrics=[] if error else [metric], error=error, **counted
    )


def task_begun(task: int = 0, model: str = "dense") -> TaskBegun:
    return TaskBegun(task=task, model=model)


def stage_result(stage: int, domain: str) -> StageResult:
    counted = {"sparsity": 0.5, "weights": 100, "zeros": 50, "calibration_tokens": 128, "seconds": 0.1}
    errors = {"relative_error": 0.01, "held_out_error": 0.02}
    return StageResult(stage=stage, domain=domain, **counted, **errors, **DIGESTS)


def summary(*warnings: JobWarning) -> Summary:
    return Summary(weights=100, zeros=50, sparsity=0.5, **DIGESTS, warnings=list(warnings))
