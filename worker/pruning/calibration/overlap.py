"""How much of one text is in another, by long runs of tokens that both have."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy
from numpy.typing import NDArray
from torch import Tensor

RUN: Final = 32
"""Tokens of a run that two texts share by copying, hardly ever by chance."""
SHORTEST: Final = 13
"""Windows shorter than this say nothing: common phrases are as long."""
PIECE: Final = 1 << 18
"""Tokens handled at once."""
MOST: Final = 1 << 24
"""Tokens of the other text that are looked at, to bound memory."""

Hashes = NDArray[numpy.uint64]


class Shared(NamedTuple):
    """Shares of the tokens of the one and of the other that are in what both have."""

    of_windows: float
    of_text: float


def shared_shares(windows: Sequence[Tensor], text: Tensor) -> list[Shared]:
    """For each of several draws of windows, the share of its tokens that lie in a run of RUN tokens (or of a whole
    window, where these are shorter) which is in `text` too, and the share of the text's tokens in such runs.

    windows: (windows, length), int64, each. text: consecutive windows of one text, (windows, length), int64, of
    which the first MOST tokens are looked at.
    """
    flat = text.reshape(1, -1)[:, :MOST].numpy()
    known: dict[int, Hashes] = {}
    found = []
    for own in windows:
        run = min(RUN, own.shape[1])
        if run < SHORTEST or flat.size < run:
            found.append(Shared(0.0, 0.0))
            continue
        if run not in known:
            known[run] = numpy.unique(_hashes(flat, run))
        rows = max(1, PIECE // own.shape[1])
        parts = (own[start : start + rows] for start in range(0, len(own), rows))
        met, covered = numpy.zeros(len(known[run]), dtype=bool), 0
        for part in parts:
            hashes = _hashes(part.numpy(), run)
            hits = numpy.isin(hashes, known[run])
            met[numpy.searchsorted(known[run], hashes[hits])] = True
            covered += _covered(hits, run)
        back = _covered(numpy.isin(_hashes(flat, run), known[run][met]), run) if covered else 0
        found.append(Shared(covered / own.numel(), back / flat.size))
    return found


def _covered(hits: NDArray[numpy.bool_], run: int) -> int:
    """Tokens in any run that is a hit. hits: (windows, starts)."""
    edges = numpy.zeros((hits.shape[0], hits.shape[1] + run), dtype=numpy.int32)
    edges[:, :-run] += hits
    edges[:, run:] -= hits
    return int((edges.cumsum(axis=1)[:, :-1] > 0).sum())


def _hashes(tokens: NDArray[numpy.int64], run: int) -> Hashes:
    """A hash of every run of so many tokens, (windows, length − run + 1): Σ_k mix(token_k) · B^k, modulo 2⁶⁴."""
    mixed = _mix(tokens.astype(numpy.uint64))
    starts = tokens.shape[1] - run + 1
    found = numpy.zeros((tokens.shape[0], starts), dtype=numpy.uint64)
    for offset in range(run):  # Horner's rule; numpy's unsigned integers wrap around
        found = found * numpy.uint64(0x9E3779B97F4A7C15) + mixed[:, offset : offset + starts]
    return found


def _mix(values: Hashes) -> Hashes:
    """Splitmix64's finaliser (Steele et al. 2014): neighbouring token ids become unrelated numbers."""
    values = (values ^ (values >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
    return values ^ (values >> numpy.uint64(31))
