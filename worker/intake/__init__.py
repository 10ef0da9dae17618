"""Work of the CPU queue: models and hub datasets are checked and brought into the store.

Nothing here imports torch; the one conversion that needs it runs in a child process.
"""

from worker.intake.errors import IntakeError
from worker.intake.runner import run

__all__ = ["IntakeError", "run"]
