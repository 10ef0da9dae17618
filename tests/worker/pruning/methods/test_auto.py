import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from secateur.spec.method import Admm, AdmmSettings, MethodName, Scope, read_method
from secateur.spec.sparsity import Pattern
from tests.specs import make_method
from worker.pruning import IllConditioned
from worker.pruning.methods import admm
from worker.pruning.methods import registry as methods
from worker.pruning.methods.auto import MIN_TOKENS, Choice, Member, Option, best, choose
from worker.pruning.methods.candidates import CANDIDATES, Candidate
from worker.pruning.methods.masks import Selection
from worker.pruning.methods.registry import Group
from worker.pruning.state.moments import Accumulator, Inputs, Measured, accumulate, relative_error

AUTO = make_method(MethodName.auto)
WEAK = Candidate("weak", MethodName.admm, {"admm": AdmmSettings(damping=0.001)})
STRONG = Candidate("strong", MethodName.admm, {"admm": AdmmSettings(damping=1.0)})


def measured(inputs: Tensor) -> Measured:
    accumulator = Accumulator(inputs.shape[1], torch.device("cpu"))
    accumulator.add(inputs)
    return accumulator.measured()


def inputs_of(train: Tensor, held_out: Tensor | None) -> Inputs:
    first = measured(train)
    sums = accumulate(None, first, keep_gram=True)
    return Inputs(sums, first, None if held_out is None else measured(held_out))


def members(*shapes: tuple[int, int], pattern: str = "unstructured") -> list[Member]:
    found = []
    for index, (rows, columns) in enumerate(shapes):
        selection = Selection(Pattern.parse(pattern), Scope.matrix, rows * columns // 2)
        found.append(Member(f"m{index}", torch.randn(rows, columns), lambda _, each=selection: each))
    return found


def tried(choice: Choice) -> dict[str, float | None]:
    found: dict[str, float | None] = choice.notes["tried"]
    return found


def labels(choice: Choice) -> list[str]:
    return [option.label for option in choice.options]


@dataclass(frozen=True)
class Whole:
    """A matrix solved by an option, and its error on the held-out Gram."""

    weight: Tensor
    held_out_error: float | None


def by_option(member: Member, inputs: Inputs) -> Callable[[Option], Whole]:
    def solve(option: Option) -> Whole:
        method = option.method
        scores = methods.scores(method, member.matrix, member.dense, option.group)
        weight = methods.solve(
            method, member.matrix, member.dense, scores, option.group, member.select(method)
        ).weight
        assert inputs.held_out is not None
        return Whole(weight, relative_error(weight, member.dense, inputs.held_out.gram))

    return solve


@pytest.mark.parametrize("order", [(WEAK, STRONG), (STRONG, WEAK)])
def test_larger_damping_wins_where_few_tokens_mislead(order: tuple[Candidate, ...]) -> None:
    """20 tokens of white noise span a third of 64 inputs; what a weak ridge fits to them, others do not have."""
    inputs = inputs_of(torch.randn(20, 64), torch.randn(4000, 64))
    group = members((40, 64), (50, 64))
    choice = choose(AUTO, group, inputs, candidates=order)
    # The default stays an option; where it is the winner, it is the only one.
    assert labels(choice) == (["strong"] if order[0] is STRONG else ["weak", "strong"])
    assert choice.options[-1].method.admm.damping == 1.0
    assert (tried(choice)["strong"] or math.inf) < (tried(choice)["weak"] or 0)
    for member in group:
        assert best(choice, by_option(member, inputs))[2]["auto"]["chosen"] == "strong"


@pytest.mark.parametrize("order", [(WEAK, STRONG), (STRONG, WEAK)])
def test_smaller_damping_wins_where_tokens_abound(order: tuple[Candidate, ...]) -> None:
    mixing = torch.randn(64, 64) * torch.logspace(-1.5, 0, 64)[:, None]
    inputs = inputs_of(torch.randn(8000, 64) @ mixing, torch.randn(4000, 64) @ mixing)
    choice = choose(AUTO, members((40, 64)), inputs, candidates=order)
    assert labels(choice)[-1] == "weak"


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_error_of_a_candidate_is_that_of_its_solution_on_the_held_out_gram(pattern: str) -> None:
    """With so few rows every one is tried, so the sum can be had from whole solutions."""
    inputs = inputs_of(torch.randn(200, 24), torch.randn(100, 24))
    group = members((20, 24), (32, 24), pattern=pattern)
    choice = choose(AUTO, group, inputs)
    for candidate in CANDIDATES:
        method = candidate.method(AUTO)
        option = Option(candidate.label, method, methods.prepare(method, inputs.sums))
        total = sum(by_option(member, inputs)(option).held_out_error or 0.0 for member in group)
        assert tried(choice)[candidate.label] == pytest.approx(total)
    errors = {label: error for label, error in tried(choice).items() if error is not None}
    assert labels(choice)[-1] == min(errors, key=lambda label: errors[label])
    assert labels(choice)[0] in (CANDIDATES[0].label, labels(choice)[-1])


def test_a_held_out_gram_that_counts_one_input_decides_by_that_input() -> None:
    """One output, two inputs of which one goes, nothing to make up with: the second has more energy in the
    windows solved on, so ADMM keeps it; those held out have the first alone, so what keeps that loses nothing."""
    train = torch.eye(2).repeat(50, 1) * torch.tensor([1.0, 2.0])
    inputs = inputs_of(train, torch.eye(2)[:1].repeat(50, 1))
    selection = Selection(Pattern(), Scope.matrix, 1)
    member = Member("m", torch.ones(1, 2), lambda method: selection)
    magnitude = Candidate("other", MethodName.magnitude)
    choice = choose(AUTO, [member], inputs, candidates=(CANDIDATES[0], magnitude))
    assert tried(choice) == {CANDIDATES[0].label: pytest.approx(1.0), "other": 1.0}
    flipped = replace(member, dense=torch.tensor([[1.5, 1.0]]))
    choice = choose(AUTO, [flipped], inputs, candidates=(CANDIDATES[0], magnitude))
    assert tried(choice) == {CANDIDATES[0].label: pytest.approx(1.0), "other": 0.0}
    assert best(choice, by_option(flipped, inputs))[1].weight.tolist() == [[1.5, 0.0]]


def test_trials_are_measured_against_the_original_weights() -> None:
    """What is solved from has lost its first input already, which is all that the held-out windows have."""
    inputs = inputs_of(torch.eye(2).repeat(50, 1), torch.eye(2)[:1].repeat(50, 1))
    selection = Selection(Pattern(), Scope.matrix, 1)
    member = Member("m", torch.tensor([[0.0, 1.0]]), lambda method: selection, torch.ones(1, 2))
    choice = choose(AUTO, [member], inputs, candidates=CANDIDATES[:1])
    assert tried(choice) == {CANDIDATES[0].label: 1.0}


@pytest.mark.parametrize("rows", [20, 320])
def test_trials_are_solved_towards_a_target_and_measured_against_it(rows: int) -> None:
    """As if the target were the weights; the one of the rows that are tried, where these are some of all."""
    inputs = inputs_of(torch.randn(200, 24), torch.randn(100, 24))
    moved = torch.eye(24) + 0.1 * torch.randn(24, 24)
    (member,) = members((rows, 24))
    aimed = choose(AUTO, [replace(member, original=member.dense, towards=lambda own: own @ moved)], inputs)
    expected = choose(AUTO, [replace(member, dense=member.dense @ moved)], inputs)
    assert tried(aimed) == pytest.approx(tried(expected))
    assert tried(aimed) != pytest.approx(tried(choose(AUTO, [member], inputs)))


@pytest.mark.parametrize("weighing", ["none", "gradients"])
def test_options_are_ready_to_weigh_outputs_under_their_own_ridge_or_the_usual_one(weighing: str) -> None:
    inputs = inputs_of(torch.randn(20, 64), torch.randn(4000, 64))
    job = read_method({"name": "auto", "output_weighting": weighing})
    for candidate in (STRONG, Candidate("alps", MethodName.alps), Candidate("sparsegpt", MethodName.sparsegpt)):
        (option,) = choose(job, members((40, 64)), inputs, candidates=(candidate,)).options
        factor = option.group.weighing
        assert (factor is not None) is job.weighs_outputs
        if factor is not None:
            ridge = 1.0 if candidate is STRONG else AdmmSettings().damping
            usual = admm.factorise(option.group.sums.gram, AdmmSettings(damping=ridge))
            assert torch.equal(factor.gram, usual.gram)


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_no_matrix_does_worse_on_what_is_held_out_than_by_the_default(pattern: str) -> None:
    """Also where the sampled rows speak for another one: those tried here are unlike the rest."""
    inputs = inputs_of(torch.randn(40, 32) * torch.logspace(-1, 1, 32), torch.randn(200, 32))
    for seed in range(5):
        torch.manual_seed(seed)
        (member,) = members((320, 32), pattern=pattern)
        member.dense[:: 320 // 160] *= 20
        choice = choose(AUTO, [member], inputs, candidates=(WEAK, STRONG, *CANDIDATES))
        errors = {option.label: by_option(member, inputs)(option).held_out_error for option in choice.options}
        option, found, notes = best(choice, by_option(member, inputs))
        assert found.held_out_error == min(error for error in errors.values() if error is not None)
        assert (found.held_out_error or 0) <= (errors["weak"] or 0)
        assert notes["auto"]["chosen"] == option.label
        assert notes["auto"]["held_out_error"] == errors


def test_the_whole_matrix_has_the_last_word() -> None:
    """Two options as a sample would leave them, of which the second is worse on the matrix itself."""
    options = tuple(Option(label, AUTO, Group(inputs_of(torch.randn(9, 4), None).sums)) for label in "ab")
    choice = Choice(options, {"tried": {"a": 0.2, "b": 0.1}})

    def known(errors: dict[str, float | None]) -> Callable[[Option], Whole]:
        return lambda option: Whole(torch.zeros(1), errors[option.label])

    assert best(choice, known({"a": 0.3, "b": 0.4}))[0].label == "a"
    assert best(choice, known({"a": 0.4, "b": 0.3}))[0].label == "b"
    assert best(choice, known({"a": 0.3, "b": 0.3}))[0].label == "a"
    assert best(choice, known({"a": None, "b": None}))[0].label == "a"


def test_the_error_that_counts_may_be_another() -> None:
    options = tuple(Option(label, AUTO, Group(inputs_of(torch.randn(9, 4), None).sums)) for label in "ab")
    choice = Choice(options, {"tried": {"a": 0.2, "b": 0.1}})
    errors = {"a": 0.3, "b": 0.4}
    option, found, notes = best(
        choice, lambda option: Whole(torch.zeros(1), errors[option.label]), lambda each: 1 - each.held_out_error
    )
    assert (option.label, found.held_out_error) == ("b", 0.4)
    assert notes["auto"]["held_out_error"] == pytest.approx({"a": 0.7, "b": 0.6})


def test_an_option_that_cannot_solve_the_whole_leaves_the_other() -> None:
    options = tuple(Option(label, AUTO, Group(inputs_of(torch.randn(9, 4), None).sums)) for label in "ab")
    choice = Choice(options, {"tried": {}, "failed": {"c": "none"}})

    def solve(option: Option) -> Whole:
        if option.label == "b":
            raise IllConditioned("not finite")
        return Whole(torch.zeros(1), 0.5)

    option, _, notes = best(choice, solve)
    assert option.label == "a"
    assert notes["auto"]["failed"] == {"c": "none", "b": "not finite"}
    with pytest.raises(IllConditioned, match="not finite"):
        best(replace(choice, options=options[1:]), solve)
    with pytest.raises(IllConditioned, match="not finite"):
        best(replace(choice, options=options[1:] * 2), solve)


def test_every_solver_and_several_dampings_and_penalties_are_tried() -> None:
    assert {candidate.name for candidate in CANDIDATES} == {MethodName.admm, MethodName.alps, MethodName.sparsegpt}
    settings = [method.admm for each in CANDIDATES if isinstance(method := each.method(AUTO), Admm)]
    assert len({each.damping for each in settings}) >= 4
    assert len({each.rho for each in settings}) >= 2
    assert settings[0] == AdmmSettings()
    assert CANDIDATES[0].name is MethodName.admm
    assert len({candidate.label for candidate in CANDIDATES}) == len(CANDIDATES)


@pytest.mark.parametrize("tokens", [0, MIN_TOKENS - 1, MIN_TOKENS])
def test_a_group_that_few_held_out_tokens_reach_takes_the_default_untried(tokens: int) -> None:
    held_out = torch.randn(tokens, 16) if tokens else None
    choice = choose(AUTO, members((8, 16)), inputs_of(torch.randn(100, 16), held_out))
    if tokens < MIN_TOKENS:
        assert labels(choice) == [CANDIDATES[0].label]
        assert choice.notes == {
            "untried": f"{tokens} held-out tokens reached this input, a choice needs {MIN_TOKENS}"
        }
    else:
        assert len(tried(choice)) == len(CANDIDATES)


def test_first_candidate_wins_ties() -> None:
    train, twin = torch.randn(100, 16), replace(WEAK, label="twin")
    tied = choose(AUTO, members((8, 16)), inputs_of(train, torch.randn(50, 16)), candidates=(twin, WEAK))
    assert labels(tied) == ["twin"]
    silent = choose(AUTO, members((8, 16)), inputs_of(train, torch.zeros(50, 16)), candidates=(WEAK, STRONG))
    assert labels(silent) == ["weak"]
    assert tried(silent) == {"weak": None, "strong": None}


def test_the_default_as_the_only_candidate_is_plain_admm() -> None:
    inputs, (member,) = inputs_of(torch.randn(100, 16), torch.randn(50, 16)), members((80, 16))
    choice = choose(AUTO, [member], inputs, candidates=CANDIDATES[:1])
    method = read_method({"name": "admm"})
    plain = Choice((Option("admm", method, methods.prepare(method, inputs.sums)),))
    _, found, notes = best(choice, by_option(member, inputs))
    _, expected, none = best(plain, by_option(member, inputs))
    assert torch.equal(found.weight, expected.weight)
    assert notes["auto"]["chosen"] == CANDIDATES[0].label
    assert none == {}


def test_a_candidate_that_fails_is_passed_over_and_said() -> None:
    broken = Candidate("broken", MethodName.admm, {"admm": AdmmSettings(damping=1e-14, rho=1e-14)})
    inputs = inputs_of(torch.randn(8, 64), torch.randn(100, 64))
    choice = choose(AUTO, members((8, 64)), inputs, candidates=(broken, STRONG))
    assert labels(choice) == ["strong"]
    assert "not positive definite" in choice.notes["failed"]["broken"]
    with pytest.raises(IllConditioned, match="no candidate"):
        choose(AUTO, members((8, 64)), inputs, candidates=(broken,))


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_large_matrices_are_tried_on_evenly_spaced_rows(pattern: str) -> None:
    """Rows that are the same say the same, however many are looked at; those between are not looked at."""
    inputs = inputs_of(torch.randn(200, 16), torch.randn(100, 16))
    (large,) = members((640, 16), pattern=pattern)
    shown = replace(large, dense=large.dense.clone())
    shown.dense[1::2] = torch.nan
    some = choose(AUTO, [shown], inputs, candidates=(WEAK, STRONG))
    assert all(0 < (error or 0) < 1 for error in tried(some).values())
    assert some.notes == choose(AUTO, [large], inputs, candidates=(WEAK, STRONG)).notes


def test_same_inputs_give_the_same_choice() -> None:
    inputs, group = inputs_of(torch.randn(100, 32), torch.randn(50, 32)), members((64, 32), (48, 32))
    assert choose(AUTO, group, inputs).notes == choose(AUTO, group, inputs).notes
