"""What the CPU queue's Celery process carries with it."""

import subprocess
import sys


def test_the_intake_does_not_bring_torch_into_the_process() -> None:
    code = (
        "import sys, worker.intake.runner; print(sorted({'torch', 'transformers', 'gguf'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
