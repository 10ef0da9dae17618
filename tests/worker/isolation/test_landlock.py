"""What a process can no longer do from inside a Landlock domain, tried by real processes."""

import ctypes
import json
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

PR_CAPBSET_DROP = 24
CAPABILITIES = 41
TRIES = textwrap.dedent(
    """
    import json, os, socket, sys
    from worker.isolation.landlock import enter

    def tried(call):
        try:
            call()
        except PermissionError:
            return "denied"
        return "done"

    entered = sys.argv[1] == "enter" and enter() >= 4
    outside, port = int(sys.argv[2]), int(sys.argv[3])
    print(json.dumps({
        "entered": entered,
        "keys": tried(lambda: open(f"/proc/{outside}/environ", "rb").read()),
        "connect": tried(lambda: socket.create_connection(("127.0.0.1", port), timeout=5).close()),
        "own": tried(lambda: open("/proc/self/environ", "rb").read()),
        "files": tried(lambda: (open("a/1", "w").close(), os.rename("a/1", "b/1"), os.link("b/1", "a/2"))),
    }))
    """
)


def _without_capabilities() -> None:
    """Root may look everywhere; a service's user may not. Takes effect when the next program starts."""
    for number in range(CAPABILITIES):
        ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, number, 0, 0, 0)


def _try(folder: Path, word: str) -> dict[str, Any]:
    for name in "ab":
        (folder / word / name).mkdir(parents=True)
    sleeper = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=_without_capabilities,
    )
    with sleeper, socket.create_server(("127.0.0.1", 0)) as server:
        assert sleeper.stdin is not None
        assert sleeper.stdout is not None
        sleeper.stdout.readline()
        said = subprocess.run(
            [sys.executable, "-c", TRIES, word, str(sleeper.pid), str(server.getsockname()[1])],
            capture_output=True,
            text=True,
            check=True,
            cwd=folder / word,
            preexec_fn=_without_capabilities,
        )
        sleeper.stdin.close()
    found: dict[str, Any] = json.loads(said.stdout)
    return found


def test_another_process_s_keys_and_tcp_are_out_of_reach_and_files_are_not(tmp_path: Path) -> None:
    assert set(_try(tmp_path, "outside").values()) == {False, "done"}
    inside = _try(tmp_path, "enter")
    if not inside["entered"]:
        pytest.skip("this kernel has no Landlock, or one older than version 4")
    assert inside["keys"] == inside["connect"] == "denied"
    assert inside["own"] == inside["files"] == "done"
