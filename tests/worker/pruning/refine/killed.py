"""Jobs that are killed behind a commit, and what one gives that nothing has stopped."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.spec.records.pipe import BlockResult, Message, Output
from tests.worker.pruning.conftest import Recorder, known_again, prune


class Killed(Exception):
    """Raised in place of an order to stop."""


class Committing(Recorder):
    """Kills the job behind so many blocks."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self._most = blocks

    def tell(self, record: Message) -> None:
        super().tell(record)
        if len(self.blocks) == self._most:
            raise Killed


class Keeper(Recorder):
    """Keeps every block's files as its commit does, and kills the job behind so many."""

    def __init__(self, workspace: Path, kept: Path, blocks: int) -> None:
        super().__init__()
        self._workspace, self._kept, self._left = workspace, kept, blocks

    def tell(self, record: Message) -> None:
        super().tell(record)
        if isinstance(record, BlockResult):
            for _, file in record.files:
                (self._kept / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self._workspace / file, self._kept / file)
            self._left -= 1
            if not self._left:
                raise Killed


@dataclass(frozen=True)
class Whole:
    """A job that nothing has stopped."""

    request: dict[str, Any]
    recorder: Recorder
    output: Output

    @classmethod
    def of(cls, request: dict[str, Any]) -> "Whole":
        recorder = Recorder()
        return cls(request, recorder, prune(request, recorder))

    def known(self, rows: int) -> list[dict[str, Any]]:
        """Its evaluations before that row, as a later attempt is told of them."""
        return known_again(each for each in self.recorder.evaluations if each.row < rows)

    def assert_same(self, request: dict[str, Any], found: Output) -> None:
        """As that request's, byte by byte."""
        assert {file.path for file in found.files} == {file.path for file in self.output.files}
        one, two = (Path(each["workspace"]) for each in (self.request, request))
        for file in self.output.files:
            assert (two / file.local).read_bytes() == (one / file.local).read_bytes(), file.path
