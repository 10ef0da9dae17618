"""Client and command line of Secateur, which prunes large language models as a service."""

from importlib.metadata import PackageNotFoundError, version

from secateur.client import Client
from secateur.errors import (
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
    "Client",
    "DownloadError",
    "NotReachable",
    "ProblemError",
    "SecateurError",
    "UnsafePath",
    "WaitTimeout",
    "__version__",
]
