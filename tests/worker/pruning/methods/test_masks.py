import pytest
import torch

from secateur.spec.method import Scope
from secateur.spec.sparsity import Pattern
from worker.pruning.methods.masks import Selection, best_of_groups, follows


def selection(zeros: int, scope: Scope = Scope.matrix, pattern: str = "unstructured") -> Selection:
    return Selection(Pattern.parse(pattern), scope, zeros)


@pytest.mark.parametrize("zeros", [0, 1, 17, 35, 36])
@pytest.mark.parametrize("scope", list(Scope))
def test_count_is_exact(zeros: int, scope: Scope) -> None:
    mask = selection(zeros, scope).mask(torch.rand(4, 9))
    assert int((~mask).sum()) == zeros


def test_ties_go_by_lowest_flat_index() -> None:
    mask = selection(5).mask(torch.ones(3, 4))
    assert (~mask).flatten().nonzero().flatten().tolist() == [0, 1, 2, 3, 4]


def test_ties_within_rows_go_from_the_left_and_first_rows_take_the_remainder() -> None:
    mask = selection(5, Scope.row).mask(torch.ones(3, 4))
    assert (~mask).tolist() == [
        [True, True, False, False],
        [True, True, False, False],
        [True, False, False, False],
    ]


def test_layer_scope_prunes_the_lowest_of_the_matrix() -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert selection(3).mask(scores).tolist() == [[False] * 3, [True] * 3]


def test_row_scope_prunes_the_lowest_of_each_row() -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0, 4.0], [8.0, 7.0, 6.0, 5.0]])
    assert selection(4, Scope.row).mask(scores).tolist() == [
        [False, False, True, True],
        [True, True, False, False],
    ]


@pytest.mark.parametrize("text", ["2:4", "1:4", "4:8", "3:7", "5:6"])
def test_n_of_m_keeps_the_best_of_every_group(text: str) -> None:
    pattern = Pattern.parse(text)
    assert pattern.kept
    assert pattern.group
    scores = torch.rand(5, pattern.group * 6)
    zeros = scores.numel() // pattern.group * (pattern.group - pattern.kept)
    mask = Selection(pattern, Scope.row, zeros).mask(scores)
    assert int((~mask).sum()) == zeros
    assert follows(mask.float(), pattern)
    for group, chosen in zip(scores.split(pattern.group, 1), mask.split(pattern.group, 1), strict=True):
        kept = torch.where(chosen, group, torch.inf).min(dim=1).values
        lost = torch.where(chosen, -torch.inf, group).max(dim=1).values
        assert bool((kept >= lost).all())


def test_n_of_m_ties_prune_the_first_inputs() -> None:
    assert best_of_groups(torch.ones(1, 7), 3, 7).tolist() == [[False] * 4 + [True] * 3]


def lowest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Of a flat tensor, by a stable sort."""
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    chosen[scores.sort(stable=True).indices[:count]] = True
    return chosen


@pytest.mark.parametrize("levels", [1, 3, 1000])
@pytest.mark.parametrize("group", [2, 3, 4, 8, 9, 16])
def test_n_of_m_is_a_stable_sort_of_every_group(group: int, levels: int) -> None:
    """Small groups are compared pair by pair, larger ones are sorted."""
    scores = torch.randint(levels, (12, 5 * group)).float()
    for kept in range(1, group):
        rows = [~lowest(each, group - kept) for each in scores.view(-1, group)]
        assert torch.equal(best_of_groups(scores, kept, group), torch.stack(rows).view_as(scores))


@pytest.mark.parametrize("levels", [1, 3, 1000])
@pytest.mark.parametrize("count", [0, 1, 59, 60, 61, 130, 240])
def test_every_scope_is_a_stable_sort(count: int, levels: int) -> None:
    scores = torch.randint(levels, (12, 20)).float().masked_fill(torch.rand(12, 20) < 0.1, -torch.inf)
    whole = Selection(Pattern(), Scope.matrix, count).mask(scores)
    assert torch.equal(whole.flatten(), ~lowest(scores.flatten(), count))
    each, more = divmod(count, 12)
    rows = [~lowest(row, each + (index < more)) for index, row in enumerate(scores)]
    assert torch.equal(Selection(Pattern(), Scope.row, count).mask(scores), torch.stack(rows))


def test_n_of_m_on_the_way_never_prunes_a_protected_weight() -> None:
    scores = torch.rand(6, 16)
    whole = Selection(Pattern(2, 4), Scope.matrix, 48)
    half = whole.mask(scores, zeros=20)
    assert int((~half).sum()) == 20
    assert bool(half[whole.mask(scores)].all())


def test_verifier_refuses_a_full_group_and_an_odd_width() -> None:
    assert not follows(torch.ones(1, 4), Pattern(2, 4))
    assert not follows(torch.zeros(1, 6), Pattern(2, 4))
    assert follows(torch.tensor([[0.0, 0.0, 0.0, 1.0]]), Pattern(2, 4))


@pytest.mark.parametrize("text", ["4:2", "0:4", "4:4", "2:", "x", "", "-1:4", "2:4:8"])
def test_bad_patterns_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="n"):
        Pattern.parse(text)
