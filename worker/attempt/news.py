"""What an engine says all the time: its progress, and lines of the log."""

import time
from typing import Final

from sqlalchemy.orm import Session

from app.delivery import commits
from secateur.spec.records.history import Phase
from secateur.spec.records.pipe import Progress
from worker.attempt.context import AttemptContext
from worker.attempt.job_log import JobLog

WRITE_SECONDS: Final = 1.0
"""Progress and log lines are written this often at the most."""


class News:
    """The newest progress and the waiting log lines, which are not worth a transaction each."""

    def __init__(self, context: AttemptContext, job_log: JobLog) -> None:
        self._context = context
        self._log = job_log
        self._phase: Phase | None = None
        self._progress: Progress | None = None
        self._written_at = 0.0

    def tell(self, progress: Progress) -> None:
        """Kept until the next write, unless it begins another phase."""
        self._progress = progress
        if progress.phase is not self._phase:
            self._phase = progress.phase
            self.write()

    def tell_publishing(self) -> None:
        progress = self._progress or Progress(phase=Phase.publishing, fraction=1.0)
        self._progress = progress.model_copy(update={"phase": Phase.publishing})
        self.write()

    def write_when_due(self) -> None:
        if time.monotonic() - self._written_at >= WRITE_SECONDS:
            self.write()

    def write(self) -> None:
        progress, self._progress = self._progress, None
        lines = self._log.take()
        self._written_at = time.monotonic()
        if progress is None and not lines:
            return

        def write(session: Session) -> None:
            if progress is not None:
                commits.write_progress(session, self._context.lease, progress)
            commits.write_log(session, self._context.lease, lines)

        self._context.commit(write)
