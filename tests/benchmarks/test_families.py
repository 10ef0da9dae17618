"""The list of families is the documented one, and a few of every kind are what it says.

Slow: each family is made, pruned and held against transformers.
"""

from pathlib import Path

import pytest
from transformers import CONFIG_MAPPING

from benchmarks.families import DOCUMENT, attempt, document, judge, main
from benchmarks.family_check import Outcome
from benchmarks.family_list import FAMILIES, Family

pytestmark = pytest.mark.slow

BY_NAME = {family.name: family for family in FAMILIES}
REPRESENTATIVES = ["gpt_neo", "afmoe", "bamba", "mamba2", "qwen3_next", "deepseek_v3", "gpt_oss", "rwkv"]


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_a_family_is_what_the_list_says(name: str) -> None:
    _, wrong = attempt(BY_NAME[name])
    assert wrong == ""


def test_the_document_is_made_of_the_list() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "python -m benchmarks.families --write"


def test_the_list_is_long_and_names_each_family_once() -> None:
    assert len(BY_NAME) == len(FAMILIES) >= 60
    assert {family.model_type for family in FAMILIES} <= set(CONFIG_MAPPING)
    assert all(family.instead for family in FAMILIES if family.refused)


@pytest.mark.parametrize(
    ("refused", "outcome", "wrong"),
    [
        (None, Outcome(True), ""),
        (None, Outcome(True, "masks"), "masks"),
        (None, Outcome(False, "no"), "no"),
        ("no", Outcome(False, "no, never"), ""),
        ("no", Outcome(False, "other"), "refused for another reason: other"),
        ("no", Outcome(True), "pruned, where the list says that it is refused"),
    ],
)
def test_an_outcome_is_held_against_the_list(refused: str | None, outcome: Outcome, wrong: str) -> None:
    assert judge(Family("llama", refused=refused), outcome) == wrong


def test_a_difference_is_a_status_and_a_crash_is_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(folder: Path, model_type: str, **own: object) -> Path:
        raise ValueError("no such configuration")

    monkeypatch.setattr("benchmarks.families.make_model", breaks)
    assert main(["--only", "llama"]) == 1
    said = capsys.readouterr().out
    assert "DIFFERS" in said
    assert "no such configuration" in said
    assert "1 families: 0 pruned as transformers has them, 1 differ llama" in said
