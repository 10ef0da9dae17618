"""What becomes of a job on each machine that may run it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from secateur.spec.records.machine import Machine
from secateur.spec.records.plan import Estimates, Lack
from secateur.spec.request import HIDDEN_PART
from tests.machines import GIB, GPU_RATES, RATES, cpu, gpu
from tests.tiny import make_tiny_llama
from tests.worker.pruning.conftest import Request
from worker.pruning import UserError, fitting
from worker.pruning.duration import Course
from worker.pruning.estimate import device_bytes, memory
from worker.pruning.fitting import check_memory, estimates, tasks_lack
from worker.pruning.plan import look
from worker.pruning.request import PruningJob, read_request
from worker.pruning.runtime.progress import Kind


def estimated(request: dict[str, Any], *machines: Machine) -> Estimates:
    named = {"machines": [machine.model_dump(mode="json") for machine in machines]}
    return estimates(look(PruningJob.from_dict(request | named)))


def test_each_machine_has_its_own_time_and_the_quickest_is_told(request_for: Request) -> None:
    slow, quick = cpu(), cpu(name="quick", rates=RATES | {"float32": 1e13, "memory": 1e12})
    found = estimated(request_for(), slow, quick)
    assert [each.kind for each in found.workers] == [slow.kind, quick.kind]
    assert all(each.fits and not each.lacks for each in found.workers)
    assert found.workers[0].seconds > found.workers[1].seconds == found.seconds.total
    assert found.kind == quick.kind
    for each in found.workers:
        assert each.seconds == pytest.approx(sum(each.parts.values()))
        assert (each.parts["transfer"] == 0) == (each.device == "cpu")


def test_several_gpus_take_less_time_and_hold_no_larger_job(request_for: Request) -> None:
    one, two = estimated(request_for(), gpu(), gpu(gpus=2)).workers
    assert two.kind == f"2 × {one.kind}"
    for part in ("evaluate", "solve", "forward"):
        assert two.parts[part] == pytest.approx(one.parts[part] / 2)
    (small,) = estimated(request_for(), gpu(0.5, gpus=2)).workers
    assert small.lacks == [Lack.device_memory]


def test_memory_is_split_between_host_and_device(request_for: Request) -> None:
    on_cpu, on_gpu = estimated(request_for(), cpu()), estimated(request_for(), gpu())
    assert on_cpu.needs is not None
    assert (on_cpu.device, on_cpu.device_bytes, on_cpu.host_bytes) == ("cpu", 0, on_cpu.memory_bytes.total)
    assert on_cpu.host_bytes == on_cpu.needs.memory_bytes
    assert on_gpu.needs is not None
    assert (on_gpu.device, on_gpu.host_bytes, on_gpu.device_bytes) == (
        "cuda",
        on_gpu.needs.host_bytes,
        on_gpu.needs.device_bytes,
    )
    assert on_gpu.memory_bytes.total == pytest.approx(on_gpu.needs.host_bytes + on_gpu.needs.device_bytes)
    assert on_gpu.memory_bytes.total == pytest.approx(sum(on_gpu.memory_bytes.parts.values()))
    assert on_gpu.workers[0].parts["transfer"] > 0


def test_hidden_states_that_a_machine_would_put_into_a_file_are_no_need(request_for: Request) -> None:
    """With a large budget where it is planned, a job asks for no more than with a small one."""
    large, none = (estimated(request_for(hidden_bytes=size), cpu()) for size in (2**40, 0))
    hidden = large.memory_bytes.parts["hidden_states"]
    assert hidden > 0 == none.memory_bytes.parts["hidden_states"]
    assert large.needs is not None
    assert none.needs is not None
    assert large.needs.memory_bytes == pytest.approx(none.needs.memory_bytes, rel=0.05)
    others = none.memory_bytes.total
    least = min(others + hidden, others * HIDDEN_PART / (HIDDEN_PART - 1))
    assert large.needs.memory_bytes == pytest.approx(least, rel=0.05)


@pytest.mark.parametrize(
    ("machine", "lacks"),
    [
        (cpu(0.01), [Lack.memory]),
        (gpu(0.5), [Lack.device_memory]),
        (gpu(80, 1), [Lack.memory]),
        (gpu(0.5, 1, disk_bytes=1000), [Lack.device_memory, Lack.memory, Lack.disk]),
        (cpu(disk_bytes=1000), [Lack.disk]),
    ],
)
def test_what_a_machine_lacks_is_named(request_for: Request, machine: Machine, lacks: list[Lack]) -> None:
    found = estimated(request_for(), machine, gpu())
    assert [(each.fits, each.lacks) for each in found.workers] == [(False, lacks), (True, [])]
    assert found.kind == gpu().kind
    assert estimated(request_for(), machine).kind == machine.kind


def test_each_rate_makes_its_own_part_longer(request_for: Request) -> None:
    request = request_for()
    whole = estimated(request, gpu()).workers[0].parts
    parts = {
        "float32": {"solve"},
        "upload": {"transfer"},
        "disk_read": {"disk"},
        "disk_write": {"disk"},
        "memory": {"forward", "evaluate", "host"},
    }
    for name, expected in parts.items():
        slower = gpu(rates=GPU_RATES | {name: GPU_RATES[name] / 10})
        found = estimated(request, slower).workers[0].parts
        assert {part for part in whole if found[part] > whole[part]} == expected, name
    assert estimated(request, gpu(start_seconds=100.0)).workers[0].parts["start"] > 100


def test_tuning_takes_what_it_passes_and_writes(request_for: Request) -> None:
    """A block's tuning makes no more files; the model's writes each stage's weights twice more."""
    found = {
        refine: estimated(request_for(method={"name": "admm", "refine": refine}), gpu()).workers[0].parts
        for refine in ("none", "block", "model")
    }
    assert found["none"]["forward"] < found["block"]["forward"] < found["model"]["forward"]
    assert found["none"]["disk"] == found["block"]["disk"] < found["model"]["disk"]


@pytest.mark.parametrize(("refine", "windows"), [("norms", 2), ("norms", None), ("block", None), ("model", None)])
def test_attention_of_tuning_passes_counts(request_for: Request, refine: str, windows: int | None) -> None:
    method = {"name": "admm", "refine": refine, "refinement": {"windows": windows} if windows else {}}
    subject = look(PruningJob.from_dict(request_for(method=method)))
    plain = look(PruningJob.from_dict(request_for(method={"name": "admm"})))
    refinement = subject.job.method.refinement
    assert refinement is not None
    passes = 1 + {"norms": 4, "block": 3, "model": 4}[refine] * refinement.epochs
    tokens = [Course(each, gpu())._passed(Kind.forward) for each in (subject, plain)]
    calibration = subject.job.domains[0].calibration
    assert (calibration.samples, calibration.held_out) == (6, 0.1)
    assert tokens[0] - tokens[1] == passes * (windows or 5) * calibration.sequence_length


def test_what_tuning_the_model_has_on_the_host_is_not_the_gpus(request_for: Request) -> None:
    """All blocks as stored, before and after. State and scores are there, too."""
    method = {"name": "admm", "refine": "model"}
    subject = look(PruningJob.from_dict(request_for(method=method, output={"keep_sensitivities": True})))
    parts = memory(subject, "cuda").parts
    blocks = [name for block in subject.graph.blocks for name in block.tensors]
    assert parts["tuned_blocks"] == 2 * sum(subject.checkpoint.tensors[name].bytes for name in blocks)
    assert parts["state"] > 0 < parts["sensitivities"]
    gpus = {"outer_weights", "block_weights", "statistics", "solver", "tuning", "activations", "gpu_context"}
    gpus |= {"hidden_buffers", "survey"}
    assert device_bytes(subject) == sum(parts[name] for name in gpus)
    free = sum(matrix.weights for block in subject.graph.blocks for matrix in subject.pruned(block))
    numbers = sum(subject.checkpoint.tensors[name].numbers for name in blocks)
    more = look(PruningJob.from_dict(request_for(method=method, domains="ab")))
    assert memory(more, "cuda").parts["tuning"] - parts["tuning"] == 4 * free
    assert parts["tuning"] > 4 * numbers + 13 * free


def test_every_stream_of_hidden_states_has_its_buffers(request_for: Request) -> None:
    plain, tuned = (
        memory(look(PruningJob.from_dict(request_for(method={"name": "admm", "refine": refine}))), "cuda").parts
        for refine in ("none", "block")
    )
    for part in ("hidden_states", "hidden_buffers"):
        assert tuned[part] == 2 * plain[part] > 0


def test_a_workers_own_bound_decides_whether_a_model_can_be_tuned(
    request_for: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of a machine like the one at hand, whatever the machine has; without any, the machine's."""
    method = {"name": "admm", "refine": "model"}
    named = {"machines": [each.model_dump(mode="json") for each in (cpu(0.01), cpu(8), gpu())]}
    device = torch.device("cpu")
    with pytest.raises(UserError, match=r"this machine has 0\.01"):
        check_memory(look(PruningJob.from_dict(request_for(method=method) | named)), device)
    monkeypatch.setattr(fitting, "host_memory_bytes", lambda: 1)
    named["machines"].pop(0)
    check_memory(look(PruningJob.from_dict(request_for(method=method) | named)), device)
    named["machines"].pop(0)
    with pytest.raises(UserError, match=r"this machine has 0\.00"):
        check_memory(look(PruningJob.from_dict(request_for(method=method) | named)), device)


def test_hidden_states_go_over_the_bus_as_far_as_the_gpu_has_no_room(request_for: Request) -> None:
    """Between a GPU that has all of the job and one that is far too small."""
    times = [estimated(request_for(), gpu(size)).workers[0].parts["transfer"] for size in (80, 40, 0.001)]
    assert times[0] == times[1] < times[2]


def test_more_work_takes_longer_on_every_machine(request_for: Request) -> None:
    machines = (cpu(), gpu())
    short = estimated(request_for(), *machines).workers
    long = estimated(request_for(domains="abc", method={"name": "admm", "admm": {"iterations": 500}}), *machines)
    for less, more in zip(short, long.workers, strict=True):
        for part in ("forward", "evaluate", "solve", "disk", "host"):
            assert more.parts[part] > less.parts[part], part


def test_without_machines_the_one_at_hand_is_measured(request_for: Request) -> None:
    found = estimated(request_for())
    (fit,) = found.workers
    assert (fit.device, found.kind) == ("cpu", fit.kind)
    assert fit.host_bytes > GIB


def test_a_measurement_is_a_request_of_its_own(tmp_path: Path) -> None:
    read = read_request(f'{{"measure": "{tmp_path}", "device": "cpu", "threads": 1}}'.encode())
    assert (type(read).__name__, getattr(read, "measure", None)) == ("MeasurementRequest", tmp_path)


def test_tasks_that_a_machine_does_not_hold_are_known_before_they_are_begun(
    request_for: Request, tmp_path: Path
) -> None:
    """Of a model whose blocks are together more than what pruning one takes."""
    folder = make_tiny_llama(tmp_path / "deep", blocks=40, hidden=192)
    request = request_for(model=str(folder), tasks=[{"name": "arc_easy"}]) | {"hidden_bytes": 0}
    needed = memory(look(PruningJob.from_dict(request))).total

    def lack(share: float, **fields: Any) -> str | None:
        machine = cpu().model_copy(update={"host_bytes": round(share * needed)})
        given = request | fields | {"machines": [machine.model_dump(mode="json")]}
        return tasks_lack(look(PruningJob.from_dict(given)), torch.device("cpu"))

    assert lack(2.0) is None
    assert "the whole model takes" in str(lack(0.5))
    assert lack(0.5, tasks=[]) is None
