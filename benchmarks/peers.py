"""The environment that the peers run in, made on first use: their pins and ours cannot be installed together."""

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.protocol import digest

PINS = Path(__file__).with_name("peers.txt")
SCRIPT = Path(__file__).with_name("peer_llmcompressor.py")


def peers_python(cache: Path) -> Path:
    """The interpreter of the environment for these pins, in `cache`."""
    folder = cache / f"peers-{digest([PINS])[:12]}"
    python = folder / "bin/python"
    if (folder / "ready").is_file():
        return python
    print(f"making the peers' environment in {folder}", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "-qq"]
    # torch goes first and alone, so that its own build for this machine is chosen.
    for package in ("torch", "llmcompressor"):
        subprocess.run([*pip, "install", "--constraint", str(PINS), f"{package}=={_pin(package)}"], check=True)
    (folder / "ready").touch()
    return python


def _pin(package: str) -> str:
    pins = dict(line.split("==") for line in PINS.read_text().splitlines() if "==" in line)
    return pins[package].strip()
