"""What an engine computes on."""

from pydantic import Field

from secateur.spec.records.history import Count, Number, Record


class Fingerprint(Record):
    """A device and all that decides the last bits of what it computes. Of the same device with the same libraries
    it is the same; `uuid` alone tells one GPU from another of its kind."""

    type: str = Field(description="`cpu` or `cuda`.")
    name: str = Field(description="The processor's or the GPU's model.")
    capability: str = Field(description="`AVX512` and the like of a processor; `9.0` and the like of a GPU.")
    threads: Number = Field(description="That compute on the host.")
    libraries: dict[str, str] = Field(description="Python and what computes or writes, by name, with its version.")
    precision: dict[str, str] = Field(description="Torch's settings that decide how products and sums are made.")
    memory_bytes: Count | None = Field(default=None, description="All that a GPU has.")
    uuid: str | None = Field(default=None, description="Of a GPU, the first of several.")
    gpus: Count | None = Field(
        default=None, description="That compute, where there are several, all of this kind; it decides no bit."
    )
    driver: str | None = Field(default=None, description="Version of the GPU's, where the system tells it.")
    cuda: str | None = Field(default=None, description="Version that torch was built with.")
    cudnn: str | None = None
