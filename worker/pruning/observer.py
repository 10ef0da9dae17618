"""Who is told what a running job does."""

from typing import Protocol

from secateur.spec.records.pipe import Message


class Observer(Protocol):
    """Called from the job's own thread. Any call may raise Stopped; being told of a block may take a while.

    Times are all that may differ between two runs of the same job.
    """

    def tell(self, record: Message) -> None: ...
    def check(self) -> None: ...

    def settle(self) -> None:
        """Wait until all blocks that were told of are kept: their files may then be written over."""


class Silent:
    """An observer that listens to nothing."""

    def tell(self, record: Message) -> None: ...
    def check(self) -> None: ...
    def settle(self) -> None: ...
