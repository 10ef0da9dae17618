"""What jobs on a pretended GPU prune."""

from pathlib import Path

import pytest
import torch

from tests.tiny import make_tiny_llama


@pytest.fixture(scope="module")
def half_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("half") / "llama", dtype=torch.bfloat16)
