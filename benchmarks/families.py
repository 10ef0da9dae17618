"""Every family of the list as a tiny random model: planned, pruned, and held against transformers.

    python -m benchmarks.families                       # all of them, about eight minutes
    python -m benchmarks.families --only 'qwen3*'       # some; --list names them
    python -m benchmarks.families --write               # docs/families.md out of the list, without a run

Exit status 1 when a family is not what the list says, or a figure is not transformers'.
"""

import argparse
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from transformers import logging

from benchmarks.family_check import Outcome, check
from benchmarks.family_list import ATTENTION, EXPERTS, FAMILIES, IMAGES, RECURRENT, REFUSED, Family
from benchmarks.family_models import make_model

DOCUMENT = Path(__file__).parents[1] / "docs" / "families.md"
WITH_ADMM = ("llama", "gpt2", "mixtral", "qwen3_next", "mamba2", "gemma3 (images)")
"""Families that are pruned by `admm` too."""

_HEAD = """# Which model families are pruned

Made by `python -m benchmarks.families --write` from `benchmarks/family_list.py`, and kept by a test. `python -m
benchmarks.families` makes a tiny random model of every family here, plans it and prunes it to 50 %, and holds the
losses of the dense and of the pruned model, every mask and the loading of the result against transformers.

Blocks are found from the module graph, not from a list of names: a family that is not here may well be pruned, and
a plan (`POST /v1/plans`) says so for one model without starting a job. A family is a `model_type` of config.json.

| families that are pruned | `model_type` |
|---|---|
"""
_REFUSED = """
| families that are refused | why | instead |
|---|---|---|
"""


def document() -> str:
    """docs/families.md."""
    kinds = {
        "attention": ATTENTION,
        "mixtures of experts": EXPERTS,
        "recurrences and convolutions, alone or beside attention": RECURRENT,
        "with images: the part that reads text; the rest is copied": IMAGES,
    }
    lines = [f"| {kind} | {', '.join(_names(families))} |" for kind, families in kinds.items()]
    refused = [f"| `{each.model_type}` | {each.refused} | {each.instead} |" for each in REFUSED]
    return _HEAD + "\n".join(lines) + "\n" + _REFUSED + "\n".join(refused) + "\n"


def _names(families: Sequence[Family]) -> list[str]:
    return [f"`{name}`" for name in sorted({each.model_type for each in families})]


def judge(family: Family, outcome: Outcome) -> str:
    """What is wrong with an outcome, nothing where it is what the list says."""
    if family.refused is None:
        return outcome.reason
    if outcome.supported:
        return "pruned, where the list says that it is refused"
    return "" if family.refused in outcome.reason else f"refused for another reason: {outcome.reason}"


def attempt(family: Family) -> tuple[Outcome, str]:
    """Make, plan and prune one family: the outcome, and what is wrong with it."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            model = make_model(Path(folder) / "model", family.model_type, wrapped=family.images, **family.own)
            outcome = check(model, Path(folder) / "work")
            wrong = judge(family, outcome)
            if family.name in WITH_ADMM and not wrong:
                wrong = judge(family, check(model, Path(folder) / "work", "admm"))
        except Exception as error:  # whatever a family raises is a line of the table
            last = traceback.extract_tb(error.__traceback__)[-1]
            wrong = f"{type(error).__name__} in {Path(last.filename).name}: {' '.join(str(error).split())[:200]}"
            return Outcome(False, wrong), wrong
    return outcome, wrong


def _line(family: Family, outcome: Outcome, wrong: str, seconds: float) -> str:
    verdict = "DIFFERS" if wrong else "pruned" if outcome.supported else "refused"
    losses = [f"{loss:.6f}" for loss in (*(outcome.ours or ()), *(outcome.theirs or ()))] or ["-"] * 4
    masks = f"{outcome.matrices}/{outcome.pruned}" if outcome.supported else "-"
    dense, pruned, their_dense, their_pruned = losses
    columns = [f"{family.name:28}", f"{verdict:8}", *(f"{each:>10}" for each in (dense, their_dense))]
    columns += [*(f"{each:>10}" for each in (pruned, their_pruned)), f"{masks:>7}", f"{seconds:5.1f}s"]
    return " ".join([*columns, wrong or outcome.reason]).rstrip()


def _chosen(patterns: Sequence[str]) -> Iterator[Family]:
    return (each for each in FAMILIES if any(fnmatchcase(each.name, pattern) for pattern in patterns))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.families", description=__doc__)
    parser.add_argument("--only", nargs="+", default=["*"], metavar="NAME", help="names, with * for any letters")
    parser.add_argument("--list", action="store_true", help="print the names")
    parser.add_argument("--write", action="store_true", help="write docs/families.md")
    options = parser.parse_args(arguments)
    if options.write:
        DOCUMENT.write_text(document(), encoding="utf-8")
        return 0
    families = list(_chosen(options.only))
    if options.list or not families:
        print("\n".join(each.name for each in families) or "no family has such a name")
        return 0 if families else 2
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    print("family                       verdict   dense: ours,    theirs    pruned: ours, theirs   masks  seconds")
    failed, pruned = [], 0
    for family in families:
        began = time.monotonic()
        outcome, wrong = attempt(family)
        print(_line(family, outcome, wrong, time.monotonic() - began), flush=True)
        failed += [family.name] if wrong else []
        pruned += outcome.supported and not wrong
    print(f"{len(families)} families: {pruned} pruned as transformers has them, {len(failed)} differ", *failed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
