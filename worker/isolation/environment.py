"""The environment of a child that opens what a stranger brought."""

import os
from pathlib import Path
from typing import Final

import worker
from worker import cuda_environment

SOURCE_ROOT: Final = Path(worker.__file__).resolve().parents[1]
"""The folder that holds our packages."""
KEPT: Final = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TZ", *cuda_environment.ALLOCATORS)
KEPT_PREFIXES: Final = ("CUDA_", "CUBLAS_", "NVIDIA_")


def environment(workspace: Path, threads: int) -> dict[str, str]:
    """All that it sees of our environment: no setting, no key, no hub."""
    kept = {name: value for name, value in os.environ.items() if name in KEPT or name.startswith(KEPT_PREFIXES)}
    return (
        kept
        | cuda_environment.missing(kept)
        | {
            "PYTHONPATH": os.fspath(SOURCE_ROOT),
            "PYTHONUNBUFFERED": "1",
            "PYTHONIOENCODING": "utf-8:backslashreplace",
            "HOME": os.fspath(workspace),
            "TMPDIR": os.fspath(workspace),
            "HF_HOME": os.fspath(workspace / ".huggingface"),
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "TQDM_DISABLE": "1",
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            # Threads that spin while they wait make a job many times slower as soon as anything else wants a core.
            "OMP_WAIT_POLICY": "PASSIVE",
        }
    )
