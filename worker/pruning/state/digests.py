"""Fingerprints of masks and weights, taken while the tensors are in memory to be written."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy
import torch
from torch import Tensor

FINGERPRINTS = ("mask_sha256", "weights_sha256")


def mask_sha256(weight: Tensor) -> str:
    """Of the bits "not zero", row after row, eight a byte. weight: as in the checkpoint, on the CPU."""
    return hashlib.sha256(numpy.packbits((weight != 0).numpy()).data).hexdigest()


def weights_sha256(weight: Tensor) -> str:
    """Of the bytes as safetensors stores them. weight: contiguous, on the CPU."""
    return hashlib.sha256(weight.view(torch.uint8).numpy().data).hexdigest()


def total(records: Iterable[Mapping[str, Any]], kind: str) -> str:
    """One digest for many matrices: over the lines `name`, NUL, fingerprint in hex, in the order of the names.

    records: of the matrices, each with `matrix` and the fingerprint `kind`.
    """
    lines = sorted(f"{record['matrix']}\0{record[kind]}\n" for record in records)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
