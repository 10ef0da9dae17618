"""The child's side (`worker.isolation`): what it is asked, and what it answers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from worker.intake.rows.write import Reading, write


def answer(request: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Of the act `choose` a split's `files`; of `read` the facts of the text that was written at `target`.

    Raises IntakeError.
    """
    if request["act"] == "read":
        return write(Reading.of(request), Path(request["target"]), tell)
    from worker.intake.rows.choose import split_files  # `datasets` is heavy, and a packed text does without

    card = Path(request["readme"]) if request["readme"] is not None else None
    return split_files(Path(request["folder"]), request["paths"], card, request["config"], request["split"])
