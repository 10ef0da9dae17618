"""How much, how many and how long."""

import resource
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Patience:
    """How long a connection may keep others waiting, in seconds."""

    head: float = 10.0
    """For a request's head, from the connection's begin or the end of the keep-alive."""
    crowded: float = 3.0
    """The same above the limit of connections."""
    keep_alive: float = 15.0
    """Silence between two requests."""
    unread: float = 5.0
    """For the rest of a body that has been answered already."""
    write: float = 30.0
    """For a caller to begin to read what is ready for it; what is ready comes to it at WRITE_RATE."""
    sweep: float = 0.5
    """Between two looks at them all."""


WRITE_RATE: Final = 16_384
"""Bytes a second."""
HEAD_BYTES: Final = 32 * 2**10
MAX_FIELDS: Final = 100
"""Header fields of a request, its trailers with them."""
MAX_PIPELINED: Final = 16
"""Requests that wait for the answer of the one before them."""
RESERVE: Final = 64
"""Connections above the limit, for `/livez` and for saying that there are too many."""
UNSENT_BYTES: Final = 2**17
"""Of an answer that the kernel holds for a caller who does not read."""
SPARE_FILES: Final = 256
"""Descriptors that are not for callers: database, store, files of uploads."""


def raise_file_limit() -> int:
    """As many descriptors as the process may have; how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
