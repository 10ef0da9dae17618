import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from secateur.spec.method import MethodName, Scope, SparseGptSettings
from secateur.spec.sparsity import Pattern
from tests.specs import make_method
from tests.worker.pruning.methods.oracles import gram_of, mean_damped, output_error, solve_with, textbook_sparsegpt
from worker.pruning.methods import sparsegpt
from worker.pruning.methods.masks import Selection
from worker.pruning.methods.sparsegpt import WHOLE, _ranks, factorise, inverse_of_upper, solve_sparsegpt, spread


@pytest.mark.parametrize("width", [24, 72])
@pytest.mark.parametrize(
    "selection",
    [
        Selection(Pattern(), Scope.matrix, 100),
        Selection(Pattern(), Scope.row, 99),
        Selection(Pattern(2, 4), Scope.matrix, 0),
        Selection(Pattern(5, 8), Scope.matrix, 0),
    ],
    ids=["matrix", "row", "2:4", "5:8"],
)
def test_it_is_the_textbook_column_by_column(selection: Selection, width: int) -> None:
    """Strips, products and the reversed Cholesky change nothing but the time."""
    dense, gram = torch.randn(8, width), gram_of(200, width)
    if selection.pattern.group and selection.pattern.kept:
        zeros = dense.numel() // selection.pattern.group * (selection.pattern.group - selection.pattern.kept)
        selection = Selection(selection.pattern, selection.scope, zeros)
    expected = textbook_sparsegpt(dense, gram, selection, 0.01)
    found = solve_with(make_method(MethodName.sparsegpt), dense, gram, selection)
    assert torch.equal(found.mask, expected != 0)
    torch.testing.assert_close(found.weight.double(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("width", [24, 72, 200])
@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "5:8", "20:50"])
def test_a_strip_in_one_solve_is_the_strip_input_by_input(
    pattern: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where every launch costs."""
    parsed = Pattern.parse(pattern)
    width = width if parsed.group is None else width // parsed.group * parsed.group or parsed.group
    dense, gram = torch.randn(8, width), gram_of(400, width)
    zeros = (
        4 * width
        if parsed.kept is None or parsed.group is None
        else 8 * width * (parsed.group - parsed.kept) // parsed.group
    )
    selection = Selection(parsed, Scope.matrix, zeros)
    expected = solve_with(make_method(MethodName.sparsegpt), dense, gram, selection)
    monkeypatch.setattr(sparsegpt, "shows_at_once", lambda value: False)
    found = solve_with(make_method(MethodName.sparsegpt), dense, gram, selection)
    assert torch.equal(found.mask, expected.mask)
    torch.testing.assert_close(found.weight, expected.weight, rtol=1e-3, atol=1e-4)


def test_rows_that_differ_in_what_may_stay_have_their_own_shares() -> None:
    """Row by row they are what each row would be alone."""
    dense, gram, config = torch.randn(6, 40), gram_of(200, 40), SparseGptSettings(block=16)
    dense[torch.rand(6, 40) < 0.2] = 0.0
    factor, allowed = factorise(gram, config), dense != 0
    whole = solve_sparsegpt(dense, factor, Selection(Pattern(), Scope.row, 6 * 20 + 2, allowed=allowed), config)
    for row in range(6):
        own = Selection(Pattern(), Scope.row, 20 + (row < 2), allowed=allowed[row : row + 1])
        alone = solve_sparsegpt(dense[row : row + 1], factor, own, config)
        assert torch.equal(whole.mask[row], alone.mask[0])
        assert int((~whole.mask[row]).sum()) == 20 + (row < 2)


def test_blocks_change_only_where_masks_are_chosen() -> None:
    """A group of n:m is never cut, so that its mask does not depend on the blocks."""
    dense, gram = torch.randn(8, 48), gram_of(200, 48)
    selection = Selection(Pattern(2, 4), Scope.matrix, 8 * 24)
    found = []
    for block in (1, 7, 48, 4096):
        config = SparseGptSettings(block=block)
        found.append(solve_sparsegpt(dense, factorise(gram, config), selection, config))
    for other in found[1:]:
        assert torch.equal(found[0].mask, other.mask)
        torch.testing.assert_close(found[0].weight, other.weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("width", [1, 7, WHOLE, WHOLE + 1, 3 * WHOLE - 5])
def test_an_upper_triangular_matrix_is_inverted_by_halves(width: int) -> None:
    root = torch.randn(width, width, dtype=torch.float64).triu() / width + torch.eye(width)
    inverse = inverse_of_upper(root)
    torch.testing.assert_close(inverse @ root, torch.eye(width, dtype=torch.float64))
    assert torch.equal(inverse, inverse.triu())


def test_every_block_gets_its_share_of_the_zeros() -> None:
    dense, gram, config = torch.randn(10, 64), gram_of(200, 64), SparseGptSettings(block=16)
    solution = solve_sparsegpt(dense, factorise(gram, config), Selection(Pattern(), Scope.matrix, 323), config)
    assert (~solution.mask).reshape(10, 4, 16).sum(dim=(0, 2)).tolist() == [80, 81, 81, 81]


def test_rows_that_matter_more_keep_more() -> None:
    dense, gram = torch.randn(4, 32), gram_of(200, 32)
    rows = torch.tensor([1e6, 1.0, 1.0, 1e-6])
    selection = Selection(Pattern(), Scope.matrix, 64, rows)
    kept = solve_with(make_method(MethodName.sparsegpt), dense, gram, selection).mask.sum(dim=1).tolist()
    assert (kept[0], kept[3], sum(kept)) == (32, 0, 64)


def test_compensation_beats_leaving_the_kept_weights_alone() -> None:
    dense, gram = torch.randn(16, 64), gram_of(300, 64)
    solution = solve_with(make_method(MethodName.sparsegpt), dense, gram, Selection(Pattern(), Scope.matrix, 512))
    damped = mean_damped(gram, 0.01)
    assert output_error(solution.weight, dense, damped) < 0.8 * output_error(dense * solution.mask, dense, damped)


def test_weights_of_inputs_that_never_fire_stay_what_they_are() -> None:
    gram = gram_of(100, 8)
    gram[5], gram[:, 5] = 0.0, 0.0
    dense = torch.randn(4, 8)
    solution = solve_with(make_method(MethodName.sparsegpt), dense, gram, Selection(Pattern(), Scope.matrix, 2))
    assert (~solution.mask).nonzero().tolist() == [[0, 5], [1, 5]]
    torch.testing.assert_close(solution.weight, dense * solution.mask)


@given(
    st.lists(st.booleans(), min_size=1, max_size=40).flatmap(
        lambda dead: st.tuples(
            st.just(dead),
            st.integers(1, 5).flatmap(lambda rows: st.tuples(st.just(rows), st.integers(0, rows * len(dead)))),
            st.integers(1, 50),
        )
    )
)
def test_shares_of_blocks_add_up_and_fit(problem: tuple[list[bool], tuple[int, int], int]) -> None:
    dead, (rows, zeros), block = problem
    edges = [*range(0, len(dead), block), len(dead)]
    shares = spread(torch.tensor([zeros]), _ranks(torch.tensor(dead), None, rows, edges))[0].tolist()
    assert sum(shares) == zeros
    for share, start, end in zip(shares, edges, edges[1:], strict=False):
        lost = rows * sum(dead[start:end])
        assert 0 <= share <= rows * (end - start)
        # Live weights go only once no dead one is left.
        assert share >= lost if zeros >= rows * sum(dead) else share <= lost
