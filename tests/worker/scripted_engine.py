"""An engine without torch: `python scripted_engine.py [how] --report-fd N --parent PID`.

It speaks the real protocol through the real reporter, isolates itself like the real engine, needs the files that a
real one would need to resume, and computes contents that depend on nothing but the request and those files.
`how` is a list of words: `slow` (a pause in each block), `hang` (for ever in the third one), `fail`, `user`,
`device` (the operator's fault), `fault` (of its GPU or of a program), `ecc` (of its GPU for certain), `full` and
`crowded` (its GPU's memory, which it holds alone or not), `memory`, `greedy` (takes all there is), `disk`, `deaf`
(ignores the order to stop), `spawn` (leaves a child of its own), `outside` (reports a file that is not in the
workspace), `nonsense`,
`beyond` and `after` (a block and the end of a stage that the job has not), `plan` (answers no question), `online`
(says that it has its network), `H100` and `A100` (its GPU), `scores` (each block has a file for keeping, of which
no more than the unacknowledged ones lie about), `deadly` (is killed in the first task that it is asked).
"""

import argparse
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from secateur.spec.records.history import JobWarning, Phase
from secateur.spec.records.pipe import DeviceMemory, Failed, Output, OutputFile, Planned, Progress
from tests.records import (
    BLOCKS,
    PLAN,
    block_result,
    evaluation,
    fingerprint,
    hello,
    stage_result,
    summary,
    task_begun,
    task_result,
)
from worker.engine.reporter import UNACKNOWLEDGED_BLOCKS, Reporter
from worker.isolation.enclosure import isolate
from worker.isolation.limits import Confinement


class Stopped(Exception):
    pass


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("how", nargs="*")
    parser.add_argument("--report-fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--confinement", type=Confinement.load, default=Confinement())
    arguments = parser.parse_args()
    isolation = isolate(arguments.parent, arguments.confinement)
    request = json.loads(sys.stdin.buffer.readline())
    with os.fdopen(arguments.report_fd, "w") as reports:
        reporter = Reporter(reports, Stopped)
        reporter.listen()
        isolation["network"] |= "online" in arguments.how
        device = next((fingerprint(word) for word in arguments.how if word in ("H100", "A100")), None)
        reporter.tell(hello(request["threads"], isolation, device))
        try:
            perform(request, reporter, set(arguments.how))
        except Stopped:
            return 1
    return 0


def perform(request: dict[str, Any], reporter: Reporter, how: set[str]) -> None:
    misbehave(how, reporter)
    print("environment", sorted(os.environ))
    print("network", os.readlink("/proc/self/ns/net"))
    print("time is", "limited" if request.get("seconds_left", 0) else "without end")
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
            reporter.tell(evaluation(row))
        if number and number - 1 >= resume.get("stages", 0):
            reporter.tell(stage_result(number - 1, domain))
    ask(request, reporter, how)
    publish(len(domains) - 1, request, reporter)


def ask(request: dict[str, Any], reporter: Reporter, how: set[str]) -> None:
    resume = request.get("resume", {})
    known = {(each["task"], each["model"]) for each in resume.get("tasks", [])}
    broken = {(each["task"], each["model"]): each["why"] for each in resume.get("broken", [])}
    for key in itertools.product(range(len(request.get("tasks", []))), ("dense", "pruned")):
        if key in known:
            continue
        if key not in broken:
            reporter.tell(task_begun(*key))
            if "deadly" in how and key == (0, "dense"):
                os.kill(os.getpid(), signal.SIGKILL)
        reporter.tell(task_result(*key, broken.get(key)))


def publish(last: int, request: dict[str, Any], reporter: Reporter) -> None:
    Path("report.json").write_text("{}")
    Path("outer").write_text("not pruned")
    files = [(f"model/{shard(b)}", weights(last, b)) for b in range(BLOCKS)]
    files += [(f"state/block-{b:04d}.safetensors", state(last, b)) for b in range(BLOCKS)]
    files += [(f"model/{shard(BLOCKS)}", "outer"), ("report.json", "report.json")]
    message = f"nothing moved in {request['workspace']}"
    warning = JobWarning(code="masks_unchanged", message=message, data={"overlap": 0.9995})
    listed = [OutputFile(path=path, local=local) for path, local in files]
    reporter.tell(Output(files=listed, summary=summary(warning)))


def prune(
    stage: int, stages: int, domain: str, first: int, request: Any, reporter: Reporter, how: set[str]
) -> None:
    text = Path(request["texts"][request["domains"][stage]["dataset"]]["path"]).read_bytes()
    before = b"".join(Path(weights(stage, block)).read_bytes() for block in range(first))
    for block in range(first, BLOCKS):
        fraction = (stage * BLOCKS + block) / (stages * BLOCKS)
        where = {"stage": stage, "stages": stages, "domain": domain, "block": block, "blocks": BLOCKS}
        reporter.tell(Progress(phase=Phase.pruning, **where, fraction=fraction, eta_seconds=1.0))
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
        reporter.tell(block_result(stage, block, files))


def carried(stage: int, block: int, request: dict[str, Any]) -> bytes:
    """Of the stage before, which for the first one of a continuation is the base's last."""
    if stage:
        return Path(state(stage - 1, block)).read_bytes()
    if "base" not in request:
        return b""
    folder = Path(request["base"]["folder"])
    assert not (folder / "model" / shard(BLOCKS)).exists(), "the dense model's own shard was brought again"
    assert (folder / "model" / shard(block)).read_bytes(), "the weights of the stage before were not brought"
    for each in request["base"]["evaluations"]:
        assert Path(request["texts"][each["dataset"]]["path"]).stat().st_size
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


def pause(seconds: float, reporter: Reporter, how: set[str]) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if "deaf" not in how:
            reporter.check()
        time.sleep(0.02)


def fail(reporter: Reporter, code: str, message: str, **more: Any) -> NoReturn:
    reporter.tell(Failed(**{"code": code, "cause": "system", "message": message} | more))
    sys.exit(1)


def fail_the_same(reporter: Reporter) -> NoReturn:
    fail(
        reporter, "engine_failed", "The engine stopped with an error of its own.", fingerprint="f", detail="detail"
    )


def misbehave(how: set[str], reporter: Reporter) -> None:
    if "deaf" in how:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "spawn" in how:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    if "user" in how:
        fail(reporter, "too_few_tokens", "too short", cause="user", field="/domains/0")
    if "device" in how:
        message = "/device: is cuda, and torch finds 0 GPUs here"
        fail(reporter, "invalid_spec", message, cause="user", field="/device")
    if "fail" in how:
        fail(reporter, "x", f"broke in {os.getcwd()}", detail="secret detail")
    if "same" in how:
        fail_the_same(reporter)
    if "fault" in how:
        fail(reporter, "device_unavailable", "no GPU", fingerprint="f")
    if "ecc" in how:
        fail(reporter, "device_unavailable", "no GPU")
    for word, reserved in (("full", 79), ("crowded", 10)):
        if word in how:
            sizes = {"total_bytes": 80, "free_bytes": 0, "reserved_bytes": reserved, "allocated_bytes": 5}
            memory = DeviceMemory(**{name: size * 10**9 for name, size in sizes.items()})
            fail(reporter, "out_of_memory", "The job does not fit.", memory=memory)
    if "memory" in how:
        fail(reporter, "out_of_memory", "")
    held = []
    while "greedy" in how:
        held.append(bytearray(2**20))
    if "disk" in how:
        fail(reporter, "disk_full", f"no room in {os.getcwd()}")
    if "outside" in how:
        reporter.tell(block_result(0, 0, [("weights", "../../../etc/passwd")]))
    if "nonsense" in how:
        reporter._reports.write('{"type": "progress", "phase": "dancing", "fraction": 0.0}\n')
        reporter._reports.flush()
    if "beyond" in how:
        reporter.tell(block_result(99, 0))
    if "after" in how:
        reporter.tell(stage_result(99, "none"))
    if "plan" in how:
        reporter.tell(Planned(plan=PLAN))


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
