"""The first thing a child runs: tie its life to the supervisor's, drop privileges, then become the server.

Run by path with the standard library alone (`python -I -S launch.py <plan> command…`), because it must be quick
and must not import anything of the environment it is about to hand over. The plan is one JSON object:

    parent      process id of the supervisor
    signal      what the kernel sends when the supervisor is gone
    uid, gid    who to become, or null
    capability  number of the one capability kept across the change of user, or null
    pipe        read end of the life line, where the kernel has no parent-death signal, or null
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading

PR_SET_PDEATHSIG = 1
PR_SET_SECUREBITS = 28
SECBIT_NO_SETUID_FIXUP = 4
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAPABILITY_VERSION_3 = 0x20080522


def main() -> None:
    """Never returns: the process becomes the command, or watches over it."""
    plan = json.loads(sys.argv[1])
    command = sys.argv[2:]
    if plan["uid"] is not None:
        _become(plan["uid"], plan["gid"], plan["capability"])
    if plan["pipe"] is not None:
        sys.exit(_watch(command, plan["pipe"], plan["signal"]))
    # After the change of user, which clears the signal.
    _prctl(PR_SET_PDEATHSIG, plan["signal"])
    if os.getppid() != plan["parent"]:
        sys.exit("the supervisor is gone")
    os.execvp(command[0], command)  # noqa: S606 - a shell has no business here


def _become(uid: int, gid: int, capability: int | None) -> None:
    """Change to an unprivileged user, keeping at most one capability (also over exec: an ambient one).

    access(2) asks on behalf of the real user and forgets the capabilities of anybody but root, and initdb looks
    for its binaries with it; the secure bit "no set-uid fix-up" makes it count the capability.
    """
    if capability is not None:
        _prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if capability is not None:
        _keep_only(capability)
        _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)


def _keep_only(capability: int) -> None:
    """Set effective, permitted and inheritable to exactly one capability (capset(2), version 3)."""
    word, bit = divmod(capability, 32)
    masks = [0, 0]
    masks[word] = 1 << bit
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)(masks[0], masks[0], masks[0], masks[1], masks[1], masks[1])
    _checked(_libc().capset(header, data), "capset")


def _prctl(option: int, second: int, third: int = 0) -> None:
    arguments = [ctypes.c_ulong(value) for value in (second, third, 0, 0)]
    _checked(_libc().prctl(option, *arguments), f"prctl {option}")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _watch(command: list[str], pipe: int, death_signal: int) -> int:
    """Stay beside the command, in one process group with it; when the life line closes, end it.

    The supervisor holds the only write end of the pipe, so it closes with the supervisor however that dies.
    """
    child = subprocess.Popen(command)

    def forward(number: int, _frame: object) -> None:
        child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, forward)

    def end_with_supervisor() -> None:
        os.read(pipe, 1)
        if death_signal == signal.SIGKILL:
            os.killpg(0, signal.SIGKILL)
        child.send_signal(death_signal)

    threading.Thread(target=end_with_supervisor, daemon=True).start()
    code = child.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    main()
