"""Whether tests of tasks can run here."""

import os

import pytest

from worker.harness import harness_version


def needs_harness() -> None:
    """Skip the module where lm-eval is not installed, unless that is a failure here."""
    if harness_version() is None and os.environ.get("SECATEUR_TEST_TASKS") != "required":
        pytest.skip("lm-eval is not installed: pip install '.[tasks]'", allow_module_level=True)
