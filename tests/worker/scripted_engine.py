"""An engine without torch: `python scripted_engine.py [how] --report-fd N --parent PID`.

It speaks the real protocol through the real reporter, isolates itself like the real engine, needs the files that a
real one would need to resume, and computes contents that depend on nothing but the request and those files.
`how` is a list of words: `slow` (a pause in each block), `hang` (for ever in the third one), `fail`, `user`,
`device` (the operator's fault), `memory`, `disk`, `deaf` (ignores the order to stop), `spawn` (leaves a child of
its own), `outside` (reports a file that is not in the workspace), `nonsense`, `online` (says that it has kept its
network), `scores` (each block has a file for keeping, of which no more than the unacknowledged ones lie about).
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.engine.isolation import isolate
from worker.engine.reporter import UNACKNOWLEDGED_BLOCKS, Reporter
from worker.engine_format import ENGINE_FORMAT

BLOCKS = 4
SKIPPED = [
    {"name": "norm.0", "reason": "not a matrix (Norm)", "weights": 2},
    {"name": "norm.1", "reason": "not a matrix (Norm)", "weights": 2},
    {"name": "embedding", "reason": "outside the decoder blocks (Embedding)", "weights": 100},
]


class Stopped(Exception):
    pass


@dataclass
class Progress:
    phase: str
    stage: int
    stages: int
    domain: str
    block: int
    blocks: int
    fraction: float
    eta_seconds: float


@dataclass
class Block:
    stage: int
    block: int
    files: list[tuple[str, str]]
    records: list[dict[str, Any]]
    sensitivity: list[dict[str, Any]]


@dataclass
class Stage:
    stage: int
    domain: str
    sparsity: float
    weights: int
    zeros: int
    calibration_tokens: int
    relative_error: float
    held_out_error: float
    seconds: float


@dataclass
class Evaluation:
    row: int
    domain: str
    perplexity: float
    loss: float
    windows: int
    tokens: int
    window_losses: list[float]
    protocol: dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("how", nargs="*")
    parser.add_argument("--report-fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    arguments = parser.parse_args()
    isolation = isolate(arguments.parent)
    request = json.loads(sys.stdin.buffer.readline())
    with os.fdopen(arguments.report_fd, "w") as reports:
        reporter = Reporter(reports, Stopped)
        reporter.listen()
        reporter.hello(
            engine_format=ENGINE_FORMAT,
            versions={"script": "1"},
            device="cpu",
            threads=request["threads"],
            isolation={**isolation, "network": isolation["network"] or "online" in arguments.how},
            plan={"blocks": BLOCKS, "skipped": SKIPPED},
        )
        try:
            perform(request, reporter, set(arguments.how))
        except Stopped:
            return 1
    return 0


def perform(request: dict[str, Any], reporter: Reporter, how: set[str]) -> None:
    misbehave(how, reporter)
    print("environment", sorted(os.environ))
    print("network", os.readlink("/proc/self/ns/net"))
    print("working in", request["workspace"], "\x1b[1mbold\x1b[0m")
    resume = request.get("resume", {})
    domains = request["domains"]
    known = {(entry["row"], entry["domain"]) for entry in resume.get("evaluations", [])}
    earlier = len(request.get("base", {}).get("domains", []))
    for number, domain in enumerate(["dense", *(domain["name"] for domain in domains)]):
        if number and number - 1 >= resume.get("stages", 0):
            first = resume.get("blocks", 0) if number - 1 == resume.get("stages", 0) else 0
            prune(number - 1, len(domains), domain, first, request, reporter, how)
        row = earlier + number if number else 0
        if (row, "d0") not in known:
            reporter.evaluation(Evaluation(row, "d0", 10.0 + row, 2.3, 1, 4, [2.3], {"dtype": "float32"}))
        if number and number - 1 >= resume.get("stages", 0):
            reporter.stage(Stage(number - 1, domain, 0.5, 100, 50, 128, 0.01, 0.02, 0.1))
    publish(len(domains) - 1, request, reporter)


def publish(last: int, request: dict[str, Any], reporter: Reporter) -> None:
    Path("report.json").write_text("{}")
    Path("outer").write_text("not pruned")
    files = [{"path": f"model/{shard(b)}", "local": weights(last, b)} for b in range(BLOCKS)]
    files += [{"path": f"state/block-{b:04d}.safetensors", "local": state(last, b)} for b in range(BLOCKS)]
    files += [{"path": f"model/{shard(BLOCKS)}", "local": "outer"}]
    files += [{"path": "report.json", "local": "report.json"}]
    message = f"nothing moved in {request['workspace']}"
    warning = {"code": "masks_unchanged", "message": message, "data": {"overlap": 0.9995}}
    reporter.output(files, {"sparsity": 0.5, "warnings": [warning]})


def prune(
    stage: int, stages: int, domain: str, first: int, request: Any, reporter: Reporter, how: set[str]
) -> None:
    text = Path(request["texts"][request["domains"][stage]["dataset"]]["path"]).read_bytes()
    before = b"".join(Path(weights(stage, block)).read_bytes() for block in range(first))
    for block in range(first, BLOCKS):
        fraction = (stage * BLOCKS + block) / (stages * BLOCKS)
        reporter.progress(Progress("pruning", stage, stages, domain, block, BLOCKS, fraction, 1.0))
        # The block before as written, and the state of the stage before: exactly what a resume must bring back.
        earlier = carried(stage, block, request)
        content = hashlib.sha256(text + before + earlier).digest()
        for path, data in ((weights(stage, block), content), (state(stage, block), content[:9])):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_bytes(data)
        before += content
        hangs = "hang" in how and (stage, block) == (0, 2)
        if "later" in how and (stage, block) == (0, 2):
            fail_the_same(reporter)
        pause(600 if hangs else 0.4 if "slow" in how else 0.0, reporter, how)
        files = [("weights", weights(stage, block)), ("state", state(stage, block))]
        if "scores" in how:
            files.append(("sensitivity", write_scores(stage, block, content)))
        reporter.block(Block(stage, block, files, [record(block)], [sensitivity(block)]))


def carried(stage: int, block: int, request: dict[str, Any]) -> bytes:
    """Of the stage before, which for the first one of a continuation is the base's last."""
    if stage:
        return Path(state(stage - 1, block)).read_bytes()
    if "base" not in request:
        return b""
    folder = Path(request["base"]["folder"])
    assert not (folder / "model" / shard(BLOCKS)).exists(), "the dense model's own shard was brought again"
    assert (folder / "model" / shard(block)).read_bytes(), "the weights of the stage before were not brought"
    for evaluation in request["base"]["evaluations"]:
        assert Path(request["texts"][evaluation["dataset"]]["path"]).stat().st_size
    return (folder / "state" / f"block-{block:04d}.safetensors").read_bytes()


def shard(number: int) -> str:
    return f"model-{number + 1:05d}-of-{BLOCKS + 1:05d}.safetensors"


def weights(stage: int, block: int) -> str:
    return f"stage-{stage:02d}/model/{block}"


def state(stage: int, block: int) -> str:
    return f"stage-{stage:02d}/state/{block}"


def write_scores(stage: int, block: int, content: bytes) -> str:
    path = Path(f"sensitivity/stage-{stage:02d}/{block}")
    left = list(Path("sensitivity").glob("*/*"))
    assert len(left) <= UNACKNOWLEDGED_BLOCKS, left
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content[::-1])
    return str(path)


def record(block: int) -> dict[str, Any]:
    counts = {"rows": 2, "columns": 2, "weights": 4, "zeros": 2, "sparsity": 0.5, "target": 0.5}
    more = {
        "pattern": "unstructured",
        "relative_error": None,
        "held_out_error": None,
        "seconds": 0.1,
        "solver": "script",
    }
    compared = dict.fromkeys(("mask_changed", "mask_overlap", "revived", "newly_pruned", "domain_errors"))
    digests = {"mask_sha256": "0" * 64, "weights_sha256": "0" * 64}
    return {"matrix": f"block.{block}", **counts, **more, "notes": {}, **compared, **digests}


def sensitivity(block: int) -> dict[str, Any]:
    return {"matrix": f"block.{block}", "mean": 1.0, "total": 4.0, "quantiles": {}, "histogram": {}}


def pause(seconds: float, reporter: Reporter, how: set[str]) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if "deaf" not in how:
            reporter.check()
        time.sleep(0.02)


def fail_the_same(reporter: Reporter) -> None:
    told = {"code": "engine_failed", "cause": "system", "message": "The engine stopped with KeyError."}
    reporter.say("failed", **told, field=None, fingerprint="f", detail="detail")
    sys.exit(1)


def misbehave(how: set[str], reporter: Reporter) -> None:
    if "deaf" in how:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "spawn" in how:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    if "user" in how:
        reporter.say("failed", code="too_few_tokens", cause="user", message="too short", field="/domains/0")
        sys.exit(1)
    if "device" in how:
        message = "/device: is cuda, and torch finds 0 GPUs here"
        reporter.say("failed", code="invalid_spec", cause="user", message=message, field="/device")
        sys.exit(1)
    if "fail" in how:
        reporter.say(
            "failed",
            code="x",
            cause="system",
            message=f"broke in {os.getcwd()}",
            field=None,
            detail="secret detail",
        )
        sys.exit(1)
    if "same" in how:
        fail_the_same(reporter)
    if "memory" in how:
        reporter.say("failed", code="out_of_memory", cause="system", message="", field=None)
        sys.exit(1)
    if "disk" in how:
        reporter.say("failed", code="disk_full", cause="system", message=f"no room in {os.getcwd()}", field=None)
        sys.exit(1)
    if "outside" in how:
        reporter.block(Block(0, 0, [("weights", "../../../etc/passwd")], [], []))
    if "nonsense" in how:
        reporter.say("progress", phase="dancing")


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
