"""From text files to token windows: random ones for calibration, consecutive ones for evaluation.

A window begins with what the tokenizer puts before every text, and goes on with tokens of the text. Places are
counted in tokens of the text, without these prefixes.
"""

import random
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from typing import Any

import numpy
import torch
from torch import Tensor

from secateur.spec.job import Calibration, Documents
from secateur.spec.job import Evaluation as EvaluationSpec
from secateur.spec.request import Text
from worker.pruning.calibration.tokenizer import Ids, Tokenizer
from worker.pruning.errors import UserError


@dataclass(frozen=True)
class CalibrationWindows:
    """One domain's windows, (windows, length), int64 each: those that are solved on, and those that only judge.

    covered: how many tokens of the text are in a window solved on; windows may lie over one another. overlap: the
    share of the held-out tokens whose place in the text is solved on too; 0 unless the text is so covered that no
    window fits between those that are solved on. judged_by: how many tokens of the text are in a held-out window.
    prefix: the tokens that each window begins with, which are the tokenizer's own.
    """

    solved_on: Tensor
    held_out: Tensor
    covered: int
    overlap: float = 0.0
    judged_by: int = 0
    prefix: tuple[int, ...] = ()

    @property
    def every(self) -> Tensor:
        """The text of all windows, without their prefixes."""
        return torch.cat([self.solved_on, self.held_out])[:, len(self.prefix) :]

    @property
    def judging(self) -> int:
        """Tokens of the text in all held-out windows, each as often as it is there."""
        return self.held_out[:, len(self.prefix) :].numel()


def calibration_windows(
    tokenizer: Tokenizer, text: Text, calibration: Calibration, field: str
) -> CalibrationWindows:
    """Random windows: their starts are drawn by random.Random(seed), each place where a window fits as likely as
    any other. Those at `held_out_indices` are held out, moved by `apart` to where nothing is solved on.

    With documents joined, of s tokens of text a window, the starts are randint(0, len − s − 1). field: JSON
    pointer of the calibration. Raises UserError when the text has too few tokens.
    """
    length = tokenizer.room(calibration.sequence_length, f"{field}/sequence_length")
    tokens, places = _places(tokenizer, text, calibration.documents, length, field)
    draw = random.Random(calibration.seed)  # noqa: S311 - the protocol's generator, not a secret
    starts = _picked(places, calibration.samples, draw)
    indices = held_out_indices(calibration.samples, calibration.held_out)
    solved_on = [start for index, start in enumerate(starts) if index not in set(indices)]
    drawn = [starts[index] for index in indices]
    held_out, overlap = apart(solved_on, drawn, length, places, calibration.seed)

    def cut(starts: Sequence[int]) -> Tensor:
        return _windows(tokenizer, [tokens[start : start + length] for start in starts], length)

    covered, judged_by = (int(_taken(starts, length).sum()) for starts in (solved_on, held_out))
    return CalibrationWindows(cut(solved_on), cut(held_out), covered, overlap, judged_by, tokenizer.prefix)


def _places(
    tokenizer: Tokenizer, text: Text, documents: Documents, length: int, field: str
) -> tuple[Ids, list[range]]:
    """The text's tokens, and the starts of windows with so many of them that lie in one document (or in the whole
    text, where documents are joined). Raises UserError where there is none."""
    if documents is Documents.separate:
        parts = list(tokenizer.documents(text, field))
    else:
        parts = [tokenizer.tokens(text, field)]
    ends = list(accumulate(map(len, parts)))
    places = [range(end - len(part), end - length) for end, part in zip(ends, parts, strict=True)]
    found = [place for place in places if place]
    if not found:
        raise _too_few("calibration", documents, map(len, parts), length + 1, field)
    return numpy.concatenate(parts), found


def _too_few(kind: str, documents: Documents, tokens: Iterable[int], needed: int, field: str) -> UserError:
    """tokens: of each document, or of the whole text."""
    most = max(tokens, default=0)
    message = f"{kind} text has {most} tokens; one window needs {needed}: give more text or shorter windows"
    if documents is Documents.separate:
        message = (
            f"no document of the {kind} text has the {needed} tokens that one window needs, the longest has "
            f"{most}: give longer documents or shorter windows, or join the documents"
        )
    return UserError("too_few_tokens", message, field)


def _windows(tokenizer: Tokenizer, texts: Sequence[Ids], length: int) -> Tensor:
    """Each text, of `length` tokens, behind the tokenizer's prefix: (texts, prefix + length), int64."""
    rows = numpy.empty((len(texts), len(tokenizer.prefix) + length), dtype=numpy.int64)
    rows[:, : len(tokenizer.prefix)] = tokenizer.prefix
    rows[:, len(tokenizer.prefix) :] = numpy.array(texts).reshape(-1, length)
    return torch.from_numpy(rows)


def apart(
    solved_on: Sequence[int], drawn: Sequence[int], length: int, places: Sequence[range], seed: int
) -> tuple[list[int], float]:
    """Starts of held-out windows that share no place in the text with those solved on, and the share that does.

    places: all starts that a window may have, in order. drawn: as the protocol drew them; one that shares nothing
    stays. The others are drawn again, from all starts whose window lies between those solved on, if possible clear
    of the other held-out ones too. Where no window fits between those solved on, all stay as drawn.
    """
    free = _gaps(solved_on, length, places)
    if not free:
        return list(drawn), _covered(solved_on, drawn, length)
    draw = random.Random(f"held out {seed}")  # noqa: S311 - a generator of its own: the protocol's is used up
    stay = {start for start in drawn if any(start in gap for gap in free)}
    clear = _gaps([*solved_on, *stay], length, places)
    found = []
    for start in drawn:
        if start not in stay:
            (start,) = _picked(clear or free, 1, draw)
            clear = [part for gap in clear for part in _around(gap, start, length)]
        found.append(start)
    return found, 0.0


def _gaps(starts: Sequence[int], length: int, places: Sequence[range]) -> list[range]:
    """Those of the starts in `places` whose windows touch none of those at `starts`."""
    free, begin = [], 0
    for start in sorted(starts):
        free.append(range(begin, start - length + 1))
        begin = max(begin, start + length)
    free.append(range(begin, places[-1].stop))
    found = []
    remaining = iter([gap for gap in free if gap])
    gap = next(remaining, None)
    for place in places:
        while gap is not None and gap.start < place.stop:
            found.append(range(max(gap.start, place.start), min(gap.stop, place.stop)))
            if gap.stop > place.stop:  # it goes on in the next place
                break
            gap = next(remaining, None)
    return [gap for gap in found if gap]


def _around(gap: range, start: int, length: int) -> list[range]:
    """What is left of a gap when a window begins at `start`, in it or near it."""
    before = range(gap.start, min(gap.stop, start - length + 1))
    return [part for part in (before, range(max(gap.start, start + length), gap.stop)) if part]


def _picked(places: Sequence[range], count: int, draw: random.Random) -> list[int]:
    """So many of all the starts, each as likely as any other, whatever was picked before."""
    ends = list(accumulate(map(len, places)))
    found = []
    for _ in range(count):
        number = draw.randrange(ends[-1])
        place = bisect_right(ends, number)
        found.append(places[place].stop + number - ends[place])
    return found


def _covered(solved_on: Sequence[int], held_out: Sequence[int], length: int) -> float:
    """The share of the held-out windows' tokens that are in a window solved on."""
    if not held_out:
        return 0.0
    taken = _taken(solved_on, length, max(held_out))
    return float(numpy.mean([taken[start : start + length] for start in held_out]))


def _taken(starts: Sequence[int], length: int, last: int = 0) -> numpy.ndarray[Any, Any]:
    """Which places of the text, (places,), bool, are in a window at one of the starts. last: reach at least to the
    end of a window there."""
    taken = numpy.zeros(max([*starts, last]) + length, dtype=bool)
    for start in starts:
        taken[start : start + length] = True
    return taken


def held_out_indices(samples: int, share: float) -> list[int]:
    """Which of `samples` windows are held out: evenly spread, for a tenth those with index % 10 == 9.

    Too few windows for the share give up their last one, a single window none.
    """
    exact = Fraction(str(share))
    spread = [index for index in range(samples) if int((index + 1) * exact) > int(index * exact)]
    return spread or ([samples - 1] if share and samples > 1 else [])


def evaluation_windows(tokenizer: Tokenizer, text: Text, spec: EvaluationSpec, field: str) -> Tensor:
    """The first windows, one after the other, (windows, sequence_length), int64.

    They go on from one document to the next where these are joined; else each document's first one begins with
    it. What is left at its end, too short for a window, is dropped. Raises UserError where no window fits.
    """
    length = tokenizer.room(spec.sequence_length, "/evaluation/sequence_length")
    if spec.documents is Documents.separate:
        parts = tokenizer.documents(text, field, limit=spec.max_windows * length)
    else:
        parts = iter([tokenizer.tokens(text, field, limit=spec.max_windows * length)])
    found: list[Ids] = []
    sizes = []
    for tokens in parts:
        sizes.append(len(tokens))
        found += [tokens[end - length : end] for end in range(length, len(tokens) + 1, length)]
        if len(found) >= spec.max_windows:
            break
    if not found:
        raise _too_few("evaluation", spec.documents, sizes, length, field)
    return _windows(tokenizer, found[: spec.max_windows], length)
