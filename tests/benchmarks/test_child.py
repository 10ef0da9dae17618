"""Measured children: answers, failures, memory.

Slow: memory and exit codes are those of a process of its own.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.child import ChildFailed, memory, run_child

pytestmark = pytest.mark.slow

MIB = 2**20


def program(folder: Path, body: str) -> list[str]:
    file = folder / "program.py"
    file.write_text(f"import json, os, sys\nasked = json.load(open(sys.argv[1]))\n{body}\n")
    return [sys.executable, str(file)]


def test_answer_comes_back(tmp_path: Path) -> None:
    command = program(tmp_path, "json.dump({'double': 2 * asked['n']}, open(sys.argv[2], 'w'))")
    assert run_child(command, {"n": 21}, threads=1).answer == {"double": 42}


def test_threads_are_the_childs_and_its_environment_favours_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    command = program(tmp_path, "json.dump(dict(os.environ), open(sys.argv[2], 'w'))")
    seen = run_child(command, {}, threads=3).answer
    assert seen["OMP_NUM_THREADS"] == "3"
    assert "PYTHONPATH" not in seen


def test_failure_shows_what_the_program_said(tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match="the reason"):
        run_child(program(tmp_path, "sys.exit('the reason')"), {}, threads=1)


def test_program_without_an_answer_has_failed(tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match="ended with 0"):
        run_child(program(tmp_path, "pass"), {}, threads=1)


def test_memory_of_the_child_is_seen_and_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    released: list[bool] = []

    def look(pid: int) -> dict[str, int]:
        """Lets the child go on once it has been seen at its largest."""
        seen = memory(pid)
        if seen.get("RssAnon", 0) > 200 * MIB and not released:
            released.append(True)
            gate.write_text("")
        return seen

    monkeypatch.setattr("benchmarks.child.memory", look)
    body = f"""
held = bytearray(b"x") * (200 << 20)
open({str(gate)!r}).read()
json.dump({{}}, open(sys.argv[2], "w"))
"""
    ours = b"y" * (600 * MIB)
    finished = run_child(program(tmp_path, body), {}, threads=1)
    assert len(ours) == 600 * MIB
    assert 200 * MIB < finished.peak_anon_bytes < 400 * MIB
    assert finished.peak_anon_bytes <= finished.peak_rss_bytes < 400 * MIB


def test_a_terminated_benchmark_takes_its_child_with_it(tmp_path: Path) -> None:
    command = program(
        tmp_path, "print(os.getpid(), file=open(asked['pid'], 'w'), flush=True)\nimport time\ntime.sleep(60)"
    )
    pid = tmp_path / "pid"
    benchmark = (
        f"from benchmarks.child import run_child; run_child({command!r}, {{'pid': {str(pid)!r}}}, threads=1)"
    )
    process = subprocess.Popen([sys.executable, "-c", benchmark], cwd=Path(__file__).parents[2])
    try:
        deadline = time.monotonic() + 60
        while not (pid.is_file() and pid.read_text().endswith("\n")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.terminate()
        assert process.wait(timeout=60) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()
    assert memory(int(pid.read_text())) == {}


def test_memory_of_a_process_that_is_gone_is_empty() -> None:
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    ended.wait()
    assert memory(ended.pid) == {}
