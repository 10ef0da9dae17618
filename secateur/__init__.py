"""Client and command line of Secateur, which prunes large language models as a service."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from secateur.client import AsyncClient, Client
    from secateur.errors import (
        BadAnswer,
        DownloadError,
        NotReachable,
        ProblemError,
        SecateurError,
        UnsafePath,
        WaitTimeout,
    )

try:
    __version__ = version("secateur")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"

__all__ = [
    "AsyncClient",
    "BadAnswer",
    "Client",
    "DownloadError",
    "NotReachable",
    "ProblemError",
    "SecateurError",
    "UnsafePath",
    "WaitTimeout",
    "__version__",
]

_CLIENTS: Final = {"AsyncClient", "Client"}


def __getattr__(name: str) -> Any:
    """The client comes when it is asked for: the engine and the API import `secateur.spec`, and need no HTTP."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("secateur.client" if name in _CLIENTS else "secateur.errors"), name)
