"""A machine that runs jobs: what it has, and how fast it was measured to be."""

from typing import Final, Literal

from pydantic import Field

from secateur.spec.records.device import Fingerprint
from secateur.spec.records.history import Count, Number, Record

GIB: Final = 2**30


class Rates(Record):
    """What a machine does in a second."""

    float32: float = Field(
        gt=0, description="Floating point operations of a product of matrices, exact in float32."
    )
    rounded: float = Field(
        gt=0,
        description="The same where factors may be rounded first: TF32 on a GPU, bfloat16 on some processors.",
    )
    bfloat16: float = Field(gt=0, description="The same of bfloat16 matrices.")
    memory: float = Field(gt=0, description="Bytes read and written of the memory that it computes in.")
    upload: float | None = Field(default=None, gt=0, description="Bytes from host to GPU; null without one.")
    download: float | None = Field(default=None, gt=0, description="And back.")
    disk_read: float = Field(gt=0, description="Bytes of its work folder's disk.")
    disk_write: float = Field(gt=0)


class Machine(Record):
    """Where engines run."""

    device: Literal["cpu", "cuda"]
    name: str = Field(max_length=200, description="Of the GPU, or else of the processor.")
    device_bytes: Count = Field(default=0, description="Memory of the GPU, of each of several; 0 without one.")
    gpus: Number = Field(default=1, description="GPUs that compute one job together, all alike.")
    host_bytes: Count = Field(description="Memory that an engine may hold.")
    disk_bytes: Count = Field(description="Size of its work folder's disk.")
    threads: Number
    start_seconds: float = Field(ge=0, description="What an engine takes before it reads its first file.")
    rates: Rates
    fingerprint: Fingerprint | None = Field(default=None, description="What it computes on, in full.")
    harness: str | None = Field(
        default=None,
        description="Version of lm-eval; null where it is not installed, and jobs with tasks not run.",
    )

    @property
    def kind(self) -> str:
        """The same for machines on which a job takes as long, and fits or not."""
        if self.device == "cuda":
            several = f"{self.gpus} × " if self.gpus > 1 else ""
            return f"{several}{self.name}, {_gib(self.device_bytes)} (host {_gib(self.host_bytes)})"
        return f"{self.name}, {self.threads} threads, {_gib(self.host_bytes)}"


def _gib(size: int) -> str:
    return f"{size / GIB:.0f} GiB"
