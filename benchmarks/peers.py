"""The environment that the peers run in, made on first use: their pins and ours cannot be installed together."""

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.child import ChildFailed
from benchmarks.protocol import digest

PINS = Path(__file__).with_name("peers.txt")
SCRIPT = Path(__file__).with_name("peer_llmcompressor.py")


def peers_python(cache: Path) -> Path:
    """The interpreter of the environment for these pins, in `cache`. Raises ChildFailed when it cannot be made."""
    folder = cache / f"peers-{digest([PINS])[:12]}"
    python = folder / "bin/python"
    if (folder / "ready").is_file():
        return python
    print(f"making the peers' environment in {folder}", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(folder)])
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "-qq"]
    # torch goes first and alone, so that its own build for this machine is chosen.
    for package in ("torch", "llmcompressor"):
        _run([*pip, "install", "--constraint", str(PINS), f"{package}=={_pin(package)}"])
    (folder / "ready").touch()
    return python


def _run(command: list[str]) -> None:
    """What it prints is shown as it comes: an installation takes minutes."""
    status = subprocess.run(command).returncode
    if status:
        raise ChildFailed(f"the peers' environment: {' '.join(command)} ended with {status}")


def _pin(package: str) -> str:
    pins = dict(line.split("==") for line in PINS.read_text().splitlines() if "==" in line)
    return pins[package].strip()
