"""What CUDA and torch read of the environment when the first of a process's work on a GPU begins."""

import os
from collections.abc import Mapping
from typing import Final

WORKSPACE: Final = "CUBLAS_WORKSPACE_CONFIG"
REPEATABLE: Final = (":4096:8", ":16:8")
"""Workspaces by which cuBLAS multiplies the same way each time, as its documentation has them."""
ALLOCATOR: Final = "PYTORCH_ALLOC_CONF"
ALLOCATORS: Final = (ALLOCATOR, "PYTORCH_CUDA_ALLOC_CONF")
EXPANDABLE: Final = "expandable_segments:True"
"""Segments that grow where they are: blocks of other shapes leave no holes that nothing fits into."""


def repeats(given: Mapping[str, str]) -> bool:
    return given.get(WORKSPACE) in REPEATABLE


def missing(given: Mapping[str, str]) -> dict[str, str]:
    """What an environment lacks, or has so that results would not repeat. An operator's allocator stays."""
    wanted = {} if repeats(given) else {WORKSPACE: REPEATABLE[0]}
    return wanted | ({} if any(given.get(name) for name in ALLOCATORS) else {ALLOCATOR: EXPANDABLE})


def complete() -> None:
    """This process's own. Without effect on CUDA once it has started."""
    os.environ.update(missing(os.environ))
