"""Each domain's own Gram beside the sums: what later weights cost a domain of which nothing else is left."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from worker.pruning.model.checkpoint import read_file
from worker.pruning.state.file import pack, read_document, unpack
from worker.pruning.state.moments import relative_error

KEY = "domain_grams"
"""In a state file's document: group → the domains whose own Grams are in the file, in their order."""


@dataclass(frozen=True)
class Packed:
    """One domain's Gram of one group, per token, as `state_file.pack` has it in float16. On the CPU."""

    triangle: Tensor
    diagonal: Tensor

    @classmethod
    def of(cls, gram: Tensor) -> "Packed":
        diagonal = gram.diagonal().clone()
        return cls(pack(gram, diagonal).cpu(), diagonal.cpu())

    def gram(self, device: torch.device) -> Tensor:
        """(in, in), float32."""
        return unpack(self.triangle.to(device), self.diagonal.to(device))


DomainGrams = dict[str, dict[str, Packed]]
"""By group, then by domain in the order of the stages."""


def read_domain_grams(path: Path, wanted: Container[str] | None = None) -> DomainGrams:
    """Those of a state file; empty when the job that wrote it kept none. wanted: of which groups; None: all."""
    held: dict[str, list[str]] = read_document(path).get(KEY, {})
    kept = {group: domains for group, domains in held.items() if wanted is None or group in wanted}
    names = {name for group, domains in kept.items() for domain in domains for name in _names(group, domain)}
    tensors = read_file(path, names) if names else {}
    return {
        group: {domain: Packed(*(tensors[name] for name in _names(group, domain))) for domain in domains}
        for group, domains in kept.items()
    }


def with_domain_grams(earlier: Path | None, domain: str, grams: Mapping[str, Tensor]) -> DomainGrams:
    """The own Grams of one more domain behind those in an earlier state file, which may have none.

    grams: of the new domain by group, per token, (in, in), float32.
    """
    before = {} if earlier is None else read_domain_grams(earlier, grams)
    return {group: {**before.get(group, {}), domain: Packed.of(gram)} for group, gram in grams.items()}


def stored_domain_grams(grams: DomainGrams) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Tensors for a state file, and what its document says of them under KEY."""
    tensors: dict[str, Tensor] = {}
    for group, domains in grams.items():
        for domain, packed in domains.items():
            tensors |= zip(_names(group, domain), (packed.triangle, packed.diagonal), strict=True)
    return tensors, {group: list(domains) for group, domains in grams.items()}


def domain_errors(
    own: Mapping[str, Packed], pairs: Sequence[tuple[Tensor, Tensor]]
) -> list[dict[str, float | None]]:
    """The relative errors of matrices of one group under every domain's own Gram, by domain.

    pairs: of each matrix the weight as written and W0, both (out, in), float32.
    """
    found: list[dict[str, float | None]] = [{} for _ in pairs]
    for domain, packed in own.items():
        gram = packed.gram(pairs[0][0].device)  # one at a time: a group may have many
        for errors, (weight, dense) in zip(found, pairs, strict=True):
            errors[domain] = relative_error(weight, dense, gram)
    return found


def _names(group: str, domain: str) -> tuple[str, str]:
    return f"{group}/domains/{domain}/gram", f"{group}/domains/{domain}/second"
