from collections.abc import Sequence

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.kit.globs import matches
from app.kit.ids import Prefix, new_id
from app.tables.auth import Project

NAMES = ("model.layers.0.q_proj", "model.layers.10.q_proj", "model.layers.0.k_proj", "a%b", "a_b", "axb", "a\\b")


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("model.layers.0.q_proj", ["model.layers.0.q_proj"]),
        ("*.q_proj", ["model.layers.0.q_proj", "model.layers.10.q_proj"]),
        ("model.layers.?.*", ["model.layers.0.k_proj", "model.layers.0.q_proj"]),
        ("a%b", ["a%b"]),
        ("a%?", ["a%b"]),
        ("*_b", ["a_b"]),
        ("*\\b", ["a\\b"]),
        ("a?b", ["a%b", "a\\b", "a_b", "axb"]),
        ("layers", []),
        ("*", sorted(NAMES)),
    ],
)
def test_only_star_and_question_mark_stand_for_others(
    session: Session, glob: str, expected: Sequence[str]
) -> None:
    session.add_all(Project(id=new_id(Prefix.project), name=name) for name in NAMES)
    session.flush()
    found = session.scalars(select(Project.name).where(matches(Project.name, glob)))
    assert sorted(found) == sorted(expected)
