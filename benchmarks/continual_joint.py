"""The joint ceiling's text: as many tokens of every domain, one domain after the other, in one jsonl file.

The engine draws a domain's windows at random from one text. So that the joint job sees exactly `samples` windows
of every domain, none of them across two, its seed is the first one from the protocol's on that draws so.
"""

import json
import random
from itertools import count
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from benchmarks.continual_rows import CALIBRATIONS
from worker.pruning import Format, Text
from worker.pruning.calibration.tokenizer import Tokenizer
from worker.pruning.state.atomic import write_bytes

MARGIN = 8
"""Tokens at a border that may belong to either side, because the joined text is tokenised anew."""
SEEDS = 1_000_000


def write_mix(model: Path, data: Path, path: Path) -> None:
    """Cut every calibration text to the shortest one's number of tokens; one line of jsonl each."""
    tokenizer: Any = AutoTokenizer.from_pretrained(model, local_files_only=True)
    texts = [_whole(data / file, kind) for file, kind in CALIBRATIONS.values()]
    options: Any = {"add_special_tokens": False, "return_offsets_mapping": True, "verbose": False}
    ends = [[end for _, end in tokenizer(text, **options)["offset_mapping"]] for text in texts]
    shortest = min(map(len, ends))
    parts = [text[: end[shortest - 1]] for text, end in zip(texts, ends, strict=True)]
    write_bytes(path, "".join(json.dumps({"text": part}) + "\n" for part in parts).encode())


def _whole(path: Path, kind: str) -> str:
    """As the engine reads it."""
    if kind == "txt":
        return path.read_text(encoding="utf-8")
    return " ".join(json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines() if line)


def balanced_seed(model: Path, mix: Path, samples: int, length: int, first: int) -> int:
    """The first seed from `first` on with which `calibration_windows`, asked for samples × domains windows, takes
    `samples` of each domain. Raises ValueError when the texts are too short for that."""
    tokenizer = Tokenizer(model)
    room = length - len(tokenizer.prefix)
    tokens = len(tokenizer.tokens(Text(path=mix, format=Format.jsonl), "/calibration"))
    domains = len(CALIBRATIONS)
    share = tokens / domains
    if share <= room + 2 * MARGIN:
        raise ValueError(f"{share:.0f} tokens a domain are too few for windows of {length}")
    for seed in count(first):
        draw = random.Random(seed)
        starts = [draw.randint(0, tokens - room - 1) for _ in range(samples * domains)]
        inside = [start for start in starts if MARGIN < start % share < share - room - MARGIN]
        counts = {domain: sum(int(start // share) == domain for start in inside) for domain in range(domains)}
        if all(found == samples for found in counts.values()):
            return seed
        if seed - first > SEEDS:
            break
    raise ValueError(f"no seed takes {samples} windows of {length} tokens of each domain: give longer texts")
