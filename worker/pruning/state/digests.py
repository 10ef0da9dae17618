"""Fingerprints of masks and weights, taken while the tensors are in memory to be written.

NumPy and hashlib do the work: it may run beside the computing thread, which torch's threads are counted for.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor

FINGERPRINTS = ("mask_sha256", "weights_sha256")

Bits = numpy.ndarray[Any, numpy.dtype[numpy.uint8]]
"""A mask, row after row, eight weights a byte; what fills the last byte is zero."""


@dataclass(frozen=True)
class Contents:
    """What the tensor of a matrix shows, as its file has it. kept: weights that are not zero."""

    mask: Bits
    kept: int
    mask_sha256: str
    weights_sha256: str

    @classmethod
    def of(cls, weight: Tensor) -> "Contents":
        """weight: as in the checkpoint, contiguous, on the CPU."""
        mask = mask_bits(weight)
        return cls(mask, count(mask), hashlib.sha256(mask.data).hexdigest(), weights_sha256(weight))


def mask_bits(weight: Tensor) -> Bits:
    """Where a matrix is not zero. weight: on the CPU."""
    # NumPy has no bfloat16; without its sign a zero has no bits.
    plain = weight.view(torch.int16).numpy() & 0x7FFF if weight.dtype is torch.bfloat16 else weight.numpy()
    return numpy.packbits(plain != 0)


def count(mask: Bits) -> int:
    """How many weights a mask keeps."""
    return int(numpy.bitwise_count(mask).sum(dtype=numpy.int64))


def mask_sha256(weight: Tensor) -> str:
    """Of the mask's bits. weight: as in the checkpoint, on the CPU."""
    return hashlib.sha256(mask_bits(weight).data).hexdigest()


def weights_sha256(weight: Tensor) -> str:
    """Of the bytes as safetensors stores them. weight: contiguous, on the CPU."""
    return hashlib.sha256(weight.view(torch.uint8).numpy().data).hexdigest()


def total(records: Iterable[Mapping[str, Any]], kind: str) -> str:
    """One digest for many matrices: over the lines `name`, NUL, fingerprint in hex, in the order of the names.

    records: of the matrices, each with `matrix` and the fingerprint `kind`.
    """
    lines = sorted(f"{record['matrix']}\0{record[kind]}\n" for record in records)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
