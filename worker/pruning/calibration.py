"""From text files to token windows: random ones for calibration, consecutive ones for evaluation."""

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor
from transformers import AutoTokenizer

from worker.pruning.errors import UserError
from worker.pruning.spec import Calibration, EvaluationSpec, Format, Text

PIECE = 1 << 24
"""Characters tokenised at once. Longer texts are cut at line (or document) ends, to bound memory."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
)


@dataclass(frozen=True)
class CalibrationWindows:
    """One domain's windows, (windows, length), int64 each: those that are solved on, and those that only judge.

    covered: how many tokens of the text are in a window solved on; windows may lie over one another.
    overlap: the share of the held-out tokens whose place in the text is solved on too; 0 unless the text is so
    covered that no window fits between those that are solved on. judged_by: how many tokens of the text are in a
    held-out window.
    """

    solved_on: Tensor
    held_out: Tensor
    covered: int
    overlap: float = 0.0
    judged_by: int = 0

    @property
    def every(self) -> Tensor:
        return torch.cat([self.solved_on, self.held_out])


class Tokenizer:
    """The model folder's own tokenizer. digest: sha256 over its files."""

    def __init__(self, folder: Path) -> None:
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError) as error:
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError("unsupported_model", f"the tokenizer cannot be read: {first}", "/model") from error
        digest = hashlib.sha256()
        for name in TOKENIZER_FILES:
            if (folder / name).is_file():
                digest.update(name.encode() + b"\0" + hashlib.sha256((folder / name).read_bytes()).digest())
        self.digest = digest.hexdigest()

    def tokens(self, text: Text, field: str, limit: int | None = None) -> numpy.ndarray[Any, Any]:
        """Token ids of a whole text, int32; special tokens only at its start. limit: stop after so many."""
        found: list[numpy.ndarray[Any, Any]] = []
        count = 0
        for piece in _pieces(text, field):
            ids = self._tokenizer(piece, add_special_tokens=not found, verbose=False)["input_ids"]
            found.append(numpy.asarray(ids, dtype=numpy.int32))
            count += len(ids)
            if limit is not None and count >= limit:
                break
        return numpy.concatenate(found) if found else numpy.zeros(0, dtype=numpy.int32)


def calibration_windows(tokenizer: Tokenizer, calibration: Calibration) -> CalibrationWindows:
    """Random windows: starts are random.Random(seed).randint(0, len − s − 1), of which those at
    `held_out_indices` are held out, moved by `apart` to where nothing is solved on.

    Raises UserError when the text has too few tokens.
    """
    tokens = tokenizer.tokens(calibration.text, calibration.field)
    length = calibration.sequence_length
    if len(tokens) < length + 1:
        message = f"has {len(tokens)} tokens; one window needs {length + 1}: give more text or shorter windows"
        raise UserError("too_few_tokens", f"calibration text {message}", calibration.field)
    draw = random.Random(calibration.seed)  # noqa: S311 - the protocol's generator, not a secret
    starts = [draw.randint(0, len(tokens) - length - 1) for _ in range(calibration.samples)]
    indices = held_out_indices(calibration.samples, calibration.held_out)
    solved_on = [start for index, start in enumerate(starts) if index not in set(indices)]
    drawn = [starts[index] for index in indices]
    held_out, overlap = apart(solved_on, drawn, length, len(tokens) - length - 1, calibration.seed)

    def cut(starts: Sequence[int]) -> Tensor:
        windows = [tokens[start : start + length] for start in starts]
        return torch.from_numpy(numpy.array(windows, numpy.int64).reshape(-1, length))

    covered, judged_by = (int(_taken(starts, length).sum()) for starts in (solved_on, held_out))
    return CalibrationWindows(cut(solved_on), cut(held_out), covered, overlap, judged_by)


def apart(
    solved_on: Sequence[int], drawn: Sequence[int], length: int, last: int, seed: int
) -> tuple[list[int], float]:
    """Starts of held-out windows that share no place in the text with those solved on, and the share that does.

    drawn: as the protocol drew them; one that shares nothing stays. The others are drawn again, from all starts up
    to `last` whose window lies between those solved on, if possible clear of the other held-out ones too. Where no
    window fits between those solved on, all stay as drawn.
    """
    free = _gaps(solved_on, length, last)
    if not free:
        return list(drawn), _covered(solved_on, drawn, length)
    draw = random.Random(f"held out {seed}")  # noqa: S311 - a generator of its own: the protocol's is used up
    stay = {start for start in drawn if any(start in gap for gap in free)}
    clear = _gaps([*solved_on, *stay], length, last)
    found = []
    for start in drawn:
        if start not in stay:
            start = _pick(clear or free, draw)
            clear = [part for gap in clear for part in _around(gap, start, length)]
        found.append(start)
    return found, 0.0


def _gaps(starts: Sequence[int], length: int, last: int) -> list[range]:
    """The starts from 0 to `last` whose windows touch none of those at `starts`."""
    found, begin = [], 0
    for start in sorted(starts):
        found.append(range(begin, start - length + 1))
        begin = max(begin, start + length)
    return [gap for gap in (*found, range(begin, last + 1)) if gap]


def _around(gap: range, start: int, length: int) -> list[range]:
    """What is left of a gap when a window begins at `start`."""
    if start not in gap:
        return [gap]
    return [part for part in (range(gap.start, start - length + 1), range(start + length, gap.stop)) if part]


def _pick(places: Sequence[range], draw: random.Random) -> int:
    """One of all the starts, each as likely as any other."""
    number = draw.randrange(sum(map(len, places)))
    for place in places:
        if number < len(place):
            break
        number -= len(place)
    return place[number]


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
    """The first non-overlapping windows, (windows, sequence_length), int64; the tail is dropped."""
    length = spec.sequence_length
    tokens = tokenizer.tokens(text, field, limit=spec.max_windows * length)
    count = min(len(tokens) // length, spec.max_windows)
    if count == 0:
        message = f"evaluation text has {len(tokens)} tokens; one window needs {length}"
        raise UserError("too_few_tokens", message, field)
    return torch.from_numpy(tokens[: count * length].reshape(count, length).astype(numpy.int64))


def text_digest(text: Text) -> str:
    """sha256 of the file's bytes."""
    digest = hashlib.sha256()
    with text.path.open("rb") as handle:
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _pieces(text: Text, field: str) -> Iterator[str]:
    """The text in pieces of about PIECE characters: lines of a txt, documents of a jsonl joined by one blank."""
    gathered: list[str] = []
    size = 0
    first = True
    try:
        for part in _parts(text, field):
            gathered.append(part if first or text.format is Format.txt else f" {part}")
            first = False
            size += len(part)
            if size >= PIECE:
                yield "".join(gathered)
                gathered, size = [], 0
    except UnicodeDecodeError:
        raise UserError("invalid_text", "the text is not UTF-8", field) from None
    if gathered:
        yield "".join(gathered)


def _parts(text: Text, field: str) -> Iterator[str]:
    # newline="": what the file says is what the model reads.
    with text.path.open(encoding="utf-8", newline="" if text.format is Format.txt else None) as handle:
        for number, line in enumerate(handle, start=1):
            if text.format is Format.txt:
                yield line
            elif line.strip():
                yield _document(line, text.text_field, number, field)


def _document(line: str, text_field: str, number: int, field: str) -> str:
    try:
        document = json.loads(line)
    except ValueError:
        raise UserError("invalid_text", f"line {number} is not JSON", field) from None
    content = document.get(text_field) if isinstance(document, dict) else None
    if not isinstance(content, str):
        raise UserError("invalid_text", f"line {number} has no text in its field {text_field!r}", field)
    return content
