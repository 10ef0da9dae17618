"""Where a job's objects lie, so that nobody ever has to guess whether one may still come into use.

`jobs/{root}/{job}-{fence}/{part}/{sha256}`: root is the first job of a chain of retries, part the stage of a
block or `output`. Only the holder of that fence writes there, and only until the part is over; a lost worker's
uploads can therefore neither replace nor keep alive what another attempt refers to.
"""

import re
from dataclasses import dataclass
from typing import Any, Final, Self

JOBS: Final = "jobs"
OUTPUT: Final = "output"
"""The part of what is uploaded when the job is published."""

_KEY: Final = re.compile(r"jobs/(?P<root>[^/]+)/(?P<job>[^/]+)-(?P<fence>[0-9]+)/(?P<part>[^/]+)/[^/]+")


@dataclass(frozen=True)
class StoredFile:
    """A file and the object that holds it. path: relative, where its reader expects it."""

    path: str
    sha256: str
    bytes: int
    key: str

    @classmethod
    def of(cls, file: dict[str, Any]) -> Self:
        """From a list of files as the database has them."""
        return cls(file["path"], file["sha256"], file["bytes"], file["key"])


@dataclass(frozen=True)
class ObjectKey:
    """What an object's key says."""

    job: str
    fence: int
    stage: int | None
    """None for the output."""


def folder_of(root: str) -> str:
    """What all objects of a chain lie below."""
    return f"{JOBS}/{root}"


def attempt_folder(root: str, job: str, fence: int) -> str:
    """What one attempt writes below."""
    return f"{folder_of(root)}/{job}-{fence}"


def parse(key: str) -> ObjectKey | None:
    """What a key says; None for one of any other form."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    part = match["part"]
    return ObjectKey(match["job"], int(match["fence"]), int(part) if part.isdecimal() else None)


def published_folder(project: str, prefix: str = "") -> str:
    """Where the project's published models lie, or the one of that `output.publish_to`."""
    return f"projects/{project}/published" + (f"/{prefix}" if prefix else "")


MODEL: Final = "model/"
"""What the artifact's files of the last stage's model begin with."""
STATISTICS: Final = "state/"
"""What the files with the accumulated statistics begin with; one a decoder block."""
_SHARD: Final = re.compile(r"model/(?:packed-)?model-(?P<number>[0-9]+)-of-(?P<count>[0-9]+)\.safetensors")


def stage_name(stage: int) -> str:
    """The folder of a stage of the job, in the engine's workspace and in the artifact."""
    return f"stage-{stage:02d}"


def is_statistics(path: str) -> bool:
    """Whether a file of an artifact holds accumulated statistics."""
    return path.startswith(STATISTICS)


def is_state(path: str) -> bool:
    """The same, or whether it holds a decoder block's pruned weights; all else is the dense model's, as it was.

    The shards are one a block, and one more for what is outside the blocks.
    """
    shard = _SHARD.fullmatch(path)
    return is_statistics(path) or (shard is not None and int(shard["number"]) < int(shard["count"]))
