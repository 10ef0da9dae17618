"""What a plan that no worker holds says."""

import pytest

from app.workers.registry import Kind
from secateur.spec.records.plan import Estimate, Estimates, Lack, Needs, WorkerFit
from tests.machines import GIB, gpu
from tests.records import PLAN
from worker.model_files.errors import IntakeError
from worker.plan_workers import for_workers


@pytest.mark.parametrize(
    ("part", "lack"),
    [("tuning", Lack.device_memory), ("tuned_blocks", Lack.memory), ("stages_solved", Lack.disk)],
)
def test_what_tuning_takes_is_mended_where_tuning_is_asked_for(part: str, lack: Lack) -> None:
    kind, large = Kind(gpu(), 1), 1000.0 * GIB
    needed = Estimate(total=large, parts={"process": 1.0, "model": 1.0, part: large}, how="")
    fit = WorkerFit(
        kind=kind.machine.kind,
        device="cuda",
        fits=False,
        lacks=[lack],
        host_bytes=float(kind.machine.host_bytes),
        device_bytes=float(kind.machine.device_bytes),
        disk_bytes=float(kind.machine.disk_bytes),
        seconds=1.0,
        parts={},
    )
    estimates = Estimates(
        memory_bytes=needed,
        disk_bytes=needed,
        seconds=needed,
        kind=fit.kind,
        needs=Needs(memory_bytes=large, host_bytes=large, device_bytes=large),
        workers=[fit],
    )
    with pytest.raises(IntakeError, match="tune a block at a time") as caught:
        for_workers(PLAN.model_copy(update={"estimates": estimates}), [kind])
    assert (caught.value.code, caught.value.field) == ("fits_no_worker", "/method/refine")
    assert part in str(caught.value)
