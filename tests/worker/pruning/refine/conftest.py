"""What is tuned here has lost enough for tuning to help, by far more than processors differ in."""

from pathlib import Path
from typing import Any

import pytest

from tests.tiny import make_tiny_llama, teach
from tests.worker.pruning.conftest import Request, requests_in


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that has learned what it is judged by."""
    return teach(make_tiny_llama(tmp_path_factory.mktemp("models") / "llama"))


@pytest.fixture
def request_for(tiny_llama: Path, texts: Path, tmp_path: Path) -> Request:
    make = requests_in(tmp_path, tiny_llama, texts)

    def sparser(**fields: Any) -> dict[str, Any]:
        return make(**({"sparsity": {"target": 0.7, "allocation": "uniform"}} | fields))

    return sparser
