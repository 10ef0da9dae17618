"""Free TCP ports on the loopback interface."""

import socket
from typing import Final

LOOPBACK: Final = "127.0.0.1"


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server could listen on this port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do, so that connections of a predecessor that linger in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_ports(count: int = 1) -> list[int]:
    """Different ports that nobody listens on now; held open together so that none comes twice."""
    probes: list[socket.socket] = []
    found: list[int] = []
    try:
        while len(found) < count:
            probe = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            probes.append(probe)
            probe.bind((LOOPBACK, 0))
            found.append(int(probe.getsockname()[1]))
    finally:
        for probe in probes:
            probe.close()
    return found


def prefer(port: int | None, host: str = LOOPBACK) -> int:
    """This port when it is free, otherwise any free one."""
    if port is not None and is_free(port, host):
        return port
    return free_ports(1)[0]
