"""Which paths a glob means."""

import string

import pytest

from worker.intake.globs import MAX_GLOBS, matching
from worker.model_files.errors import IntakeError

PUNCTUATION = "".join(set(string.punctuation) - set("*?[]/\\")) + " "


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("data/train-*", "data/train-00000-of-00002.parquet", True),
        ("data/*", "data/deep/x", False),
        ("data/**", "data/deep/x", True),
        ("**/x.txt", "x.txt", True),
        ("**/x.txt", "a/b/x.txt", True),
        ("a?.txt", "ab.txt", True),
        ("a[0-3].txt", "a2.txt", True),
        ("a[!0-3].txt", "a2.txt", False),
        ("a.txt", "abtxt", False),
        ("a(b)+.txt", "a(b)+.txt", True),
        ("a[.txt", "a[.txt", True),
        ("a[a-c&&~|].txt", "a&.txt", True),
        ("*" + PUNCTUATION, PUNCTUATION, True),
        ("ü?.txt", "üß.txt", True),
        ("*.txt", "half a pair \ud800.txt", True),
    ],
)
def test_globs(pattern: str, path: str, matches: bool) -> None:
    assert (matching([pattern], [path], lambda: None) == [path]) is matches


@pytest.mark.parametrize("pattern", ["*a" * 20, "a[9-0]"])
def test_globs_that_cost_too_much_or_make_no_sense_are_refused(pattern: str) -> None:
    with pytest.raises(IntakeError):
        matching([pattern], ["a"], lambda: None)


@pytest.mark.timeout(20)
def test_no_glob_takes_more_than_linear_time() -> None:
    paths = ["a" * 400 + str(number) for number in range(100)]
    assert matching(["**a**a**a**a**a**b.parquet"], paths, lambda: None) == []


def test_globs_have_a_bound_and_plain_paths_have_none() -> None:
    paths = [f"{number}.txt" for number in range(2 * MAX_GLOBS)]
    assert matching(paths, paths, lambda: None) == paths
    assert matching(["1*1.txt", "2.txt"], paths[:20], lambda: None) == ["2.txt", "11.txt"]
    with pytest.raises(IntakeError, match="too many"):
        matching(["*"] * (MAX_GLOBS + 1), paths, lambda: None)


def test_between_two_globs_the_work_may_stop() -> None:
    class Stop(Exception):
        pass

    def check() -> None:
        raise Stop

    with pytest.raises(Stop):
        matching(["*"], ["a"], check)
