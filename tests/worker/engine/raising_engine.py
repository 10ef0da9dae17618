"""An engine in whose work something fails: `python raising_engine.py WORD --report-fd N --parent PID`."""

import sys
from typing import Any, NoReturn

import torch

from tests.worker.test_machine_errors import accelerator

ERRORS: dict[str, BaseException] = {
    "allocator": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    "library": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "context": accelerator(2, "out of memory"),
    "ecc": accelerator(214, "uncorrectable ECC error encountered"),
    "launch": accelerator(719, "unspecified launch failure"),
}


def break_products(error: BaseException) -> None:
    """Every linear layer fails from now on, as on a GPU that has broken."""

    def fail(*_: Any, **__: Any) -> NoReturn:
        raise error

    torch.nn.functional.linear = fail


if __name__ == "__main__":
    break_products(ERRORS[sys.argv.pop(1)])
    from worker.engine.__main__ import main

    sys.exit(main())
