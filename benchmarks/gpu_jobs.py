"""Whole small jobs on the device: as on the CPU, the same bytes again, resumed, and where memory is short."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_bench import METHODS, Bench, StopAfter, digests, job, make_texts, prune
from tests.tiny import make_tiny, make_tiny_llama
from worker.isolation.child import END, Child
from worker.isolation.limits import Confinement
from worker.pruning import Stopped

ENGINE = (sys.executable, "-P", "-m", "worker.engine")
HALF = {"target": 0.5}


def agree(bench: Bench, work: Path) -> None:
    """Every method and some families, on the device and on the CPU: masks, errors, perplexities."""
    texts, models = make_texts(work), {"llama": make_tiny_llama(work / "llama", hidden=128, dtype=torch.bfloat16)}
    cases = [("llama", method, HALF) for method in METHODS]
    cases += [("llama", {"name": name}, {"pattern": "2:4"}) for name in ("admm", "sparsegpt", "alps", "wanda")]
    for family in () if bench.small else ("gemma2", "gpt2", "phi3", "mixtral", "qwen3-moe"):
        models[family] = make_tiny(family, work / family)
        cases += [(family, {"name": name}, HALF) for name in ("admm", "copal")]
    for family, method, sparsity in cases[1:3] if bench.small else cases:
        case = f"{family} {json.dumps(method)} {json.dumps(sparsity)}"
        found = []
        for device in ("cpu", str(bench.device)):
            workspace = work / f"agree-{len(found)}"
            output = prune(job(models[family], texts, workspace, device, method, sparsity))
            report = json.loads((workspace / "report.json").read_text())
            found.append((output.summary, [record for stage in report["matrices"] for record in stage]))
        bench.say("agree", case=case, **_difference(*found))


def _difference(cpu: tuple[Any, list[dict[str, Any]]], gpu: tuple[Any, list[dict[str, Any]]]) -> dict[str, Any]:
    pairs = list(zip(cpu[1], gpu[1], strict=True))
    errors = [(one["relative_error"] or 0, two["relative_error"] or 0) for one, two in pairs]
    perplexities = [each.mean_perplexity for each, _ in (cpu, gpu)]
    zeros = cpu[0].zeros == gpu[0].zeros
    return {
        "same_zeros": zeros,
        "same_masks": round(sum(one["mask_sha256"] == two["mask_sha256"] for one, two in pairs) / len(pairs), 2),
        "worst_error": round(max(abs(two - one) / max(one, 1e-9) for one, two in errors), 4),
        "perplexities": [round(each, 3) for each in perplexities],
        "ok": zeros and abs(perplexities[1] / perplexities[0] - 1) < 0.02,
    }


def repeat(bench: Bench, work: Path) -> None:
    """The same job in two processes leaves the same bytes."""
    texts, model = make_texts(work), make_tiny_llama(work / "llama", hidden=128, blocks=3, dtype=torch.bfloat16)
    methods = ("admm", "alps", "sparsegpt", "copal", "wanda")
    for name in methods[:1] if bench.small else methods:
        found = []
        for turn in range(2):
            request = job(model, texts, work / f"repeat-{turn}", str(bench.device), {"name": name}, HALF)
            command = [sys.executable, "-m", "benchmarks.gpu", "--job", json.dumps(request)]
            subprocess.run(command, check=True, capture_output=True)
            found.append(digests(work / f"repeat-{turn}"))
        _same(bench, "repeat", name, *found)


def resume(bench: Bench, work: Path) -> None:
    """A job stopped in its second stage ends in the bytes of one that was not."""
    texts, model = make_texts(work), make_tiny_llama(work / "llama", hidden=128, blocks=3, dtype=torch.bfloat16)
    methods = ({"name": "admm"}, {"name": "copal", "reading": "fisher", "weight_update": "admm"})
    for method in methods[:1] if bench.small else methods:
        whole, broken = (
            job(model, texts, work / name, str(bench.device), method, HALF) for name in ("whole", "broken")
        )
        prune(whole)
        observer = StopAfter(3 + 2)
        with contextlib.suppress(Stopped):
            prune(broken, observer)
        prune({**broken, "resume": {"stages": 1, "blocks": 2, "evaluations": observer.evaluations}})
        _same(bench, "resume", method["name"], digests(work / "whole"), digests(work / "broken"))


def _same(bench: Bench, section: str, method: str, one: dict[str, str], two: dict[str, str]) -> None:
    differing = sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))
    bench.say(section, method=method, files=len(one), differing=differing[:3], ok=bool(one) and not differing)


def memory(bench: Bench, work: Path) -> None:
    """What an engine says on a GPU that others have filled, three degrees of it."""
    if not bench.is_gpu:
        bench.say("memory", skipped="no GPU")
        return
    texts, model = make_texts(work), make_tiny_llama(work / "llama", hidden=512, dtype=torch.bfloat16)
    for left in (900, 560, 100):
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(bench.device)
        filler = torch.empty(max(free - left * 2**20, 0), dtype=torch.uint8, device=bench.device)
        request = job(
            model, texts, work / "full", str(bench.device), {"name": "admm"}, HALF, samples=64, length=256
        )
        last = said_by_engine(request)
        told = {name: last.get(name) for name in ("type", "code", "message")}
        bench.say("memory", left_mib=left, **told, detail=str(last.get("detail", "")).strip()[-300:])
        del filler
    torch.cuda.empty_cache()


def said_by_engine(request: dict[str, Any]) -> dict[str, Any]:
    """The last message of a job in an engine's process, confined as a worker confines it."""
    workspace = Path(request["workspace"])
    workspace.mkdir(parents=True, exist_ok=True)
    readable = (request["model"], *(each["path"] for each in request["texts"].values()))
    child = Child(workspace, request["threads"], ENGINE, Confinement(readable, (str(workspace),)))
    child.listen(lambda line: None)
    child.say(request)
    last: dict[str, Any] = {}
    while (line := child.hear_line(1.0)) != END:
        if line is None:
            continue
        last = json.loads(line)
        if last["type"] in ("block", "output"):
            child.say({"type": "ack", **({"output": True} if last["type"] == "output" else {})})
    child.finish(5)
    return last
