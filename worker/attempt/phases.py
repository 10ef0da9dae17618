"""Spans of what an engine does, which has no network to send any: its worker makes them of what it hears."""

from types import TracebackType
from typing import Self

from opentelemetry.trace import Span

from app.kit.tracing import begin, named
from secateur.spec.records.history import Phase
from secateur.spec.records.pipe import BlockResult, Ended, Message, Progress


class Phases:
    """One span a phase and stage; its blocks are events of it. Children of the span that is current."""

    def __init__(self) -> None:
        self._at: tuple[Phase, int | None] | None = None
        self._span: Span | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def hear(self, message: Message | Ended) -> None:
        """What the engine has just said."""
        if isinstance(message, Progress):
            self._move(message.phase, message.stage)
        elif isinstance(message, BlockResult) and self._span is not None:
            self._span.add_event("block", named({"stage": message.stage, "block": message.block}))

    def _move(self, phase: Phase, stage: int | None) -> None:
        if (phase, stage) == self._at:
            return
        self._end()
        self._at = phase, stage
        self._span = begin(phase.value, {} if stage is None else {"stage": stage})

    def _end(self) -> None:
        if self._span is not None:
            self._span.end()
        self._at = self._span = None
