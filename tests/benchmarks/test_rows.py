"""Which rows there are and how they are chosen."""

import pytest

from benchmarks.rows import COMPARED, METHODS, PATTERNS, PEERS, TIMED, Row, all_rows, choose
from secateur.spec.effort import Effort


def test_every_pattern_has_every_method_and_every_peer() -> None:
    names = {row.name for row in all_rows()}
    for pattern in PATTERNS:
        assert {f"{pattern}/{name}" for name in (*COMPARED, *PEERS)} <= names


def test_row_names_differ() -> None:
    names = [row.name for row in all_rows()]
    assert len(set(names)) == len(names)


def test_globs_choose_rows_in_the_tables_order() -> None:
    assert [row.name for row in choose("2:4/wanda, dense,50%/llm*")] == [
        "dense",
        "50%/llmcompressor-sparsegpt",
        "50%/llmcompressor-wanda",
        "2:4/wanda",
    ]


def test_glob_that_matches_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="80%"):
        choose("dense,80%/*")


def test_allocations_are_rows_only_where_rates_are_free() -> None:
    allocated = [row.name for row in all_rows() if "@" in row.name]
    assert {"50%/admm@uniform", "50%/admm@owl"} <= set(allocated)
    assert not any(name.endswith("@error") for name in allocated)  # the default has no suffix
    assert not [name for name in allocated if ":" in name]


def test_row_is_known_when_the_engine_takes_it() -> None:
    assert Row("a", "2:4", METHODS["wanda"], None, PATTERNS["2:4"]).known
    assert not Row("b", "2:4", {"name": "no such method"}, None, PATTERNS["2:4"]).known
    assert not Row("c", "2:4", METHODS["wanda"], None, PATTERNS["2:4"] | {"allocation": "owl"}).known


def test_timed_rows_are_of_ours_and_of_a_peer() -> None:
    rows = {row.name: row for row in all_rows()}
    for peer, ours in TIMED.items():
        assert rows[peer].peer in PEERS
        assert all(rows[name].method is not None for name in ours)
        assert {rows[name].pattern for name in (*ours, peer)} == {"50%"}
        assert len({str((rows[name].method, rows[name].sparsity)) for name in ours}) == len(ours)


def test_every_effort_is_a_row_of_its_own_that_the_engine_takes() -> None:
    for pattern in PATTERNS:
        found = [row for row in all_rows() if row.name.startswith(f"{pattern}/admm:")]
        assert [row.name.rpartition(":")[2] for row in found] == list(Effort)
        assert all(row.known for row in found)
        assert found[0].method != found[1].method
