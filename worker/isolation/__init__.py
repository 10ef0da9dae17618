"""The one isolation of every child process that opens what a stranger brought.

`run_isolated` asks a module of ours one question in such a child; `Child` is the process itself, which the engine
is too. Limits are of `limits`, what a child does to itself before it reads anything is in `enclosure`.
"""

from worker.isolation.limits import LimitReached, Limits
from worker.isolation.question import run_isolated

__all__ = ["LimitReached", "Limits", "run_isolated"]
