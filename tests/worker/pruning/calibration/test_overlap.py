import pytest
import torch

from worker.pruning.calibration import overlap
from worker.pruning.calibration.overlap import RUN, SHORTEST, Shared, shared_shares


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(0, 1000, shape)


def shared(windows: torch.Tensor, text: torch.Tensor) -> Shared:
    (found,) = shared_shares([windows], text)
    return found


def shared_share(windows: torch.Tensor, text: torch.Tensor) -> float:
    return shared(windows, text).of_windows


def brute_force(windows: torch.Tensor, text: torch.Tensor, run: int) -> float:
    flat = text.flatten().tolist()
    runs = {tuple(flat[start : start + run]) for start in range(len(flat) - run + 1)}
    covered = 0
    for window in windows.tolist():
        hits = set()
        for start in range(len(window) - run + 1):
            if tuple(window[start : start + run]) in runs:
                hits.update(range(start, start + run))
        covered += len(hits)
    return covered / windows.numel()


def test_texts_that_share_nothing() -> None:
    assert shared_share(tokens(4, 100), tokens(3, 64)) == 0


def test_a_text_is_all_of_itself() -> None:
    text = tokens(5, 64)
    assert shared_share(text, text) == 1


def test_windows_are_found_across_the_other_text_s_windows() -> None:
    """Test windows are consecutive, so a run may begin in one and end in the next."""
    text = tokens(4, 64)
    assert shared_share(text.flatten()[40:140].reshape(1, -1), text) == 1


@pytest.mark.parametrize("length", [RUN - 1, RUN, RUN + 1, 90])
def test_share_is_that_of_the_tokens_in_shared_runs(length: int) -> None:
    text, windows = tokens(4, 64), tokens(6, 100)
    windows[1, 5 : 5 + length] = text.flatten()[50 : 50 + length]
    windows[4, 100 - length :] = text.flatten()[:length]
    expected = 2 * length / windows.numel() if length >= RUN else 0
    assert shared_share(windows, text) == expected == brute_force(windows, text, RUN)


def test_few_words_give_the_same_as_brute_force() -> None:
    """Repetitive text, where many runs are alike but for one token."""
    text, windows = torch.randint(0, 2, (20, 64)), torch.randint(0, 2, (40, 14))
    assert shared_share(windows, text) == brute_force(windows, text, 14) > 0


def test_windows_too_short_to_tell_share_nothing() -> None:
    text = tokens(4, SHORTEST - 1)
    assert shared_share(text, text) == 0


def test_each_draw_has_its_own_share() -> None:
    text = tokens(4, 64)
    draws = [text, tokens(2, 64), text[:, :20], text[:, : SHORTEST - 1]]
    assert [found.of_windows for found in shared_shares(draws, text)] == [1, 0, 1, 0]


def test_the_text_s_share_is_of_its_own_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short text inside a long one, of which it is next to nothing; pieces do not count twice."""
    monkeypatch.setattr(overlap, "PIECE", 200)
    text, windows = tokens(1, 64), tokens(40, 100)
    windows[3, 20:84] = windows[30, :64] = text[0]
    assert shared(windows, text) == (2 * 64 / windows.numel(), 1.0)
    windows[3, 40] = windows[30, 20] = -1
    assert shared(windows, text) == (pytest.approx((43 + 43) / windows.numel()), 43 / 64)


def test_few_words_give_the_text_s_share_as_brute_force_does() -> None:
    text, windows = torch.randint(0, 2, (20, 64)), torch.randint(0, 2, (4, 14))
    runs = {tuple(window) for window in windows.tolist()}
    flat, covered = text.flatten().tolist(), set[int]()
    for start in range(len(flat) - 13):
        if tuple(flat[start : start + 14]) in runs:
            covered.update(range(start, start + 14))
    assert shared(windows, text).of_text == len(covered) / text.numel()
