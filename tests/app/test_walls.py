"""The contracts of pyproject.toml name modules; a new one of the same kind must not escape them."""

import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

import app

ROOT = Path(app.__file__).parent
CONTRACTS = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def test_what_has_a_router_is_imported_by_the_application_alone() -> None:
    [protected] = [
        each["protected_modules"] for each in CONTRACTS if each.get("allowed_importers") == ["app.main"]
    ]
    routed = {name for name, path in modules().items() if "APIRouter(" in path.read_text()}
    assert len(routed) > 5
    assert {name for name in routed if not matches(name, protected)} == {"app.docs", "app.health"}


def test_every_repository_is_kept_from_the_services() -> None:
    [sources] = [
        each["source_modules"] for each in CONTRACTS if each.get("forbidden_modules") == ["app.*.service"]
    ]
    repositories = [name for name in modules() if name.endswith("repository")]
    assert len(repositories) > 5
    assert [name for name in repositories if not matches(name, sources)] == []


def modules() -> dict[str, Path]:
    files = ((path.relative_to(ROOT.parent).with_suffix(""), path) for path in ROOT.rglob("*.py"))
    return {".".join(name.parts).removesuffix(".__init__"): path for name, path in files}


def matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
