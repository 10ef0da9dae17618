"""Arrows point down: endpoints → service → repository → tables (docs/architecture.md)."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import app

FLOORS: Final = ("tables", "repository", "service", "endpoints")
ROOT: Final = Path(app.__file__).parent


def floor(module: str) -> int | None:
    """Read off the module's name (`control_endpoints`); None for what is on no floor."""
    return next((number for number, name in enumerate(FLOORS) if module.split(".")[-1].endswith(name)), None)


def modules() -> dict[str, Path]:
    return {
        ".".join(("app", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in ROOT.rglob("*.py")
    }


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules of ours that a file imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = (f"{node.module}.{each.name}" for each in node.names)
            yield from (name if name in known else node.module for name in names)
        elif isinstance(node, ast.Import):
            yield from (each.name for each in node.names)


def test_no_arrow_points_up() -> None:
    known = modules()
    arrows = [(module, target) for module, path in known.items() for target in imported(path, known)]
    numbered = [(module, target, floor(module), floor(target)) for module, target in arrows if target in known]
    assert len(numbered) > 300, "the imports are read"
    upward = [
        f"{module} → {target}"
        for module, target, here, there in numbered
        if here is not None and there is not None and here < there
    ]
    assert upward == []


def test_nothing_imports_an_endpoint_but_the_application() -> None:
    known = modules()
    assert [
        f"{module} → {target}"
        for module, path in known.items()
        for target in imported(path, known)
        if module != "app.main" and floor(target) == FLOORS.index("endpoints")
    ] == []


def test_what_has_a_router_says_so_in_its_name() -> None:
    routed = {module for module, path in modules().items() if "APIRouter(" in path.read_text()}
    assert {module for module in routed if floor(module) != FLOORS.index("endpoints")} == {"app.health"}
