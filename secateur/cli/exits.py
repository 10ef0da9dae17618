"""Exit codes of the command line."""

from enum import IntEnum
from typing import Final


class Exit(IntEnum):
    """What a shell script can decide by."""

    well = 0
    failed = 1
    usage = 2
    cancelled = 3
    interrupted = 130


OF_STATE: Final = {"succeeded": Exit.well, "failed": Exit.failed, "cancelled": Exit.cancelled}
"""Exit code of a finished job."""
