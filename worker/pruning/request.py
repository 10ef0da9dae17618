"""The engine's request, read so that whoever calls the library hears of its fields by this library's error."""

from typing import Any

from pydantic import ValidationError

from secateur.spec.request import EngineRequest
from secateur.spec.strict import explain
from worker.pruning.errors import SpecError


class PruningJob(EngineRequest):
    """A request that was checked."""

    @classmethod
    def from_dict(cls, request: Any) -> "PruningJob":
        """The job an engine request describes. Raises SpecError naming the field by JSON pointer and the fix."""
        try:
            return cls.model_validate(request)
        except ValidationError as error:
            # The input may hold whole texts and is the caller's to look at.
            field, message = explain(error.errors(include_url=False, include_input=False)[0], request)
            raise SpecError(field, message) from None
