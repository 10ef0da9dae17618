"""The engine's requests, read so that whoever sends one hears of its fields by this library's error."""

import json
from typing import Any, Self

from pydantic import Field, ValidationError

from secateur.spec.request import Device, EngineRequest, Location, Threads
from secateur.spec.strict import Strict, explain
from worker.pruning.errors import SpecError


class _Checked(Strict):
    @classmethod
    def from_dict(cls, request: Any) -> Self:
        """What a request describes. Raises SpecError naming the field by JSON pointer and the fix."""
        try:
            return cls.model_validate(request)
        except ValidationError as error:
            # The input may hold whole texts and is the caller's to look at.
            field, message = explain(error.errors(include_url=False, include_input=False)[0], request)
            raise SpecError(field, message) from None


class PruningJob(EngineRequest, _Checked):
    """A job that was checked."""


class InspectionRequest(_Checked):
    """Whether a folder, `inspect`, holds a model that can be pruned."""

    inspect: Location
    threads: Threads = 2


class MeasurementRequest(_Checked):
    """How fast the machine is; `measure` is a folder on the disk that engines work on."""

    measure: Location
    device: Device = "auto"
    threads: Threads = 2
    host_bytes: int | None = Field(default=None, gt=0, description="That an engine may hold.")


def read_request(line: bytes) -> PruningJob | InspectionRequest | MeasurementRequest:
    """A request as the engine's process is sent one: a line of JSON. Raises SpecError."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise SpecError("", "must be a line of JSON") from None
    named = request if isinstance(request, dict) else {}
    if "inspect" in named:
        return InspectionRequest.from_dict(request)
    return (MeasurementRequest if "measure" in named else PruningJob).from_dict(request)
