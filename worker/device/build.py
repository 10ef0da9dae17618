"""How the installed torch was built."""

import runpy
from importlib.util import find_spec
from pathlib import Path


def torch_cuda() -> str | None:
    """The version of CUDA that it was built with; None without. Its own small file says so, without an import."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    found = runpy.run_path(str(Path(spec.origin).with_name("version.py"))).get("cuda")
    return None if found is None else str(found)
