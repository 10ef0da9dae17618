"""What a job needs, and what becomes of it on each machine that may run it."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Final

import torch

from secateur.spec.method import Refine
from secateur.spec.records.machine import Machine
from secateur.spec.records.plan import HOST_PARTS, Estimate, Estimates, Lack, Needs, WorkerFit
from secateur.spec.request import HIDDEN_PART
from worker.isolation.limits import host_memory_bytes
from worker.pruning.artifact import artifact
from worker.pruning.disk import disk
from worker.pruning.duration import Course
from worker.pruning.errors import SpecError
from worker.pruning.estimate import hidden_bytes, memory
from worker.pruning.request import PruningJob
from worker.pruning.runtime.machine import measure
from worker.pruning.subject import Subject

GIGABYTE: Final = 10**9


def estimates(subject: Subject) -> Estimates:
    """What the job needs; its time on the quickest of the request's machines that it fits on, or on the first."""
    machines = subject.job.machines or (_at_hand(subject.job),)
    needed, room = {device: memory(subject, device) for device in ("cpu", "cuda")}, disk(subject)
    needs = _needs(subject, needed["cpu"], needed["cuda"])
    times = {machine.kind: Course(subject, machine).seconds() for machine in machines}
    tasks = bool(subject.job.tasks)
    fits = [_fit(machine, needs, room.total, times[machine.kind], tasks) for machine in machines]
    quickest = min(fits, key=lambda fit: (not fit.fits, fit.seconds if fit.fits else 0.0))
    chosen = machines[fits.index(quickest)]
    whole = needed[chosen.device]
    host = whole.total if chosen.device == "cpu" else _on_host(whole)
    return Estimates(
        memory_bytes=whole,
        disk_bytes=room,
        artifact_bytes=artifact(subject),
        seconds=times[chosen.kind],
        host_bytes=host,
        device_bytes=whole.total - host,
        device=chosen.device,
        kind=chosen.kind,
        operations=float(sum(Course(subject, chosen).work.values())),
        needs=needs,
        workers=fits,
    )


def check_memory(subject: Subject, device: torch.device) -> None:
    """Refuse to tune a model as a whole that this machine cannot hold with its gradients. All else is bounded by a
    block. Raises SpecError."""
    if subject.job.method.refine is not Refine.model:
        return
    plain = replace(subject, job=subject.job.model_copy(update={"tasks": ()}))
    if said := _lacking(plain, device):
        message = f"model takes {said}: choose block, which is bounded by one block, or a smaller model"
        raise SpecError("/method/refine", message)


def tasks_lack(subject: Subject, device: torch.device) -> str | None:
    """Why this machine cannot hold a model as a whole for the job's tasks, where that takes more than pruning."""
    if not subject.job.tasks or not memory(subject, device.type).parts["tasks"]:
        return None
    said = _lacking(subject, device)
    return said and f"the whole model takes {said}: do the tasks elsewhere, with the artifact"


def _lacking(subject: Subject, device: torch.device) -> str | None:
    """What of this machine's memory does not hold the job; None where it does."""
    needs = _needs(subject, memory(subject, "cpu"), memory(subject, "cuda"))
    host = _host_bytes(subject.job, device)
    held = [("memory", needs.memory_bytes, host)]
    if device.type == "cuda":
        there: Any = torch.cuda.get_device_properties(device)
        held = [("memory", needs.host_bytes, host)]
        held.append(("memory on its GPU", needs.device_bytes, there.total_memory))
    for what, wanted, found in held:
        if wanted > found:
            return f"{wanted / GIGABYTE:.2f} GB of {what}, and this machine has {found / GIGABYTE:.2f}"
    return None


def _host_bytes(job: PruningJob, device: torch.device) -> int:
    """That the engine may hold: by its worker's own bound where the request says it, or by the machine's."""
    said = [machine.host_bytes for machine in job.machines if machine.device == device.type]
    return min(said, default=None) or host_memory_bytes()


def _on_host(with_gpu: Estimate) -> float:
    return sum(with_gpu.parts.get(name, 0.0) for name in HOST_PARTS)


def _needs(subject: Subject, alone: Estimate, with_gpu: Estimate) -> Needs:
    on_host = _on_host(with_gpu)
    return Needs(
        memory_bytes=_least(subject, alone, alone.total),
        host_bytes=_least(subject, with_gpu, on_host),
        device_bytes=with_gpu.total - on_host,
    )


def _least(subject: Subject, needed: Estimate, on_host: float) -> float:
    """Host memory of the smallest machine that will do: of hidden states each engine holds no more than a part of
    what its machine has, and the others are in a file."""
    others = on_host - needed.parts["hidden_states"]
    return min(others + hidden_bytes(subject), others * HIDDEN_PART / (HIDDEN_PART - 1))


def _fit(machine: Machine, needs: Needs, disk_bytes: float, time: Estimate, tasks: bool) -> WorkerFit:
    """tasks: whether the job has some."""
    on_gpu = machine.device == "cuda"
    host = needs.host_bytes if on_gpu else needs.memory_bytes
    lacks = [
        Lack.device_memory if on_gpu and needs.device_bytes > machine.device_bytes else None,
        Lack.memory if host > machine.host_bytes else None,
        Lack.disk if disk_bytes > machine.disk_bytes else None,
        Lack.harness if tasks and machine.harness is None else None,
    ]
    missing = [each for each in lacks if each is not None]
    return WorkerFit(
        kind=machine.kind,
        device=machine.device,
        fits=not missing,
        lacks=missing,
        host_bytes=float(machine.host_bytes),
        device_bytes=float(machine.device_bytes),
        disk_bytes=float(machine.disk_bytes),
        seconds=time.total,
        parts=time.parts,
    )


def _at_hand(job: PruningJob) -> Machine:
    return _measured(job.device, job.workspace if job.workspace.is_dir() else Path(gettempdir()), job.threads)


@lru_cache(maxsize=1)
def _measured(device: str, folder: Path, threads: int) -> Machine:
    return measure(device, folder, threads, quick=True)
