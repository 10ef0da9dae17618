"""One repository of a Hugging Face hub at one commit, with its errors told apart: the user's or the system's."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

from httpcore2 import ReadTimeout
from huggingface_hub import HfApi, constants, set_client_factory
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import _http as hub_http

from app.kit.addresses import AddressRefused, Trusted, checked
from secateur.digests import file_sha256
from worker.intake.context import Context
from worker.intake.interruptible import Interruptible
from worker.model_files.errors import IntakeError

TIMEOUT_SECONDS: Final = 30.0
CHUNK_BYTES: Final = 2**20
"""Received between two looks whether to stop."""
MAX_FILES: Final = 100_000
PARQUET_BRANCH: Final = "refs/convert/parquet"
"""Where the hub keeps its own Parquet copy of a dataset."""

_ID: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,95})?", re.ASCII)
_REVISION: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]{0,199}", re.ASCII)
_COMMIT: Final = re.compile(r"[0-9a-f]{40,64}", re.ASCII)


class HubUnavailable(Exception):
    """The hub could not be reached or did not answer properly; trying again may help. Carries no address."""


@dataclass(frozen=True)
class HubFile:
    """What the hub lists about a file."""

    bytes: int
    sha256: str | None = None
    """Of its contents; known for large files, whose pointers in git name it."""


@dataclass(frozen=True)
class HubRepo:
    """A repository; `kind` is `model` or `dataset`, `pointer` the place of its id in the user's request."""

    kind: str
    id: str
    pointer: str
    context: Context
    api: HfApi = field(repr=False)

    def resolve(self, revision: str | None) -> str:
        """The commit that a branch, tag or commit means now."""
        if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
            raise IntakeError("hub_revision_invalid", "This is not a revision's name.", f"{self.pointer}/revision")
        with self._errors():
            info = self.api.repo_info(self.id, repo_type=self.kind, revision=revision, timeout=TIMEOUT_SECONDS)
        if not isinstance(info.sha, str) or not _COMMIT.fullmatch(info.sha):
            raise HubUnavailable("the hub did not name a commit")
        return info.sha

    def tree(self, commit: str, recursive: bool) -> dict[str, HubFile]:
        """Every file at a commit, by its path."""
        files: dict[str, HubFile] = {}
        with self._errors():
            for entry in self.api.list_repo_tree(
                self.id, repo_type=self.kind, revision=commit, recursive=recursive
            ):
                self.context.check()
                if isinstance(entry, RepoFile):
                    sha256 = entry.lfs.sha256 if entry.lfs is not None else None
                    files[entry.path] = HubFile(int(entry.size), sha256)
                if len(files) > MAX_FILES:
                    raise IntakeError("too_many_files", f"The repository has more than {MAX_FILES} files.")
        return files

    def download(self, commit: str, path: str, file: HubFile, folder: Path) -> Path:
        """Fetch one file of a commit into `folder`, at its own path; no more and nothing else than is listed."""
        self.context.check()
        self.context.need_disk(file.bytes)
        with self._errors():
            local = self.api.hf_hub_download(
                self.id,
                path,
                repo_type=self.kind,
                revision=commit,
                local_dir=folder,
                cache_dir=self.context.scratch / "hub-cache",
                tqdm_class=_watch(self.context.check, file.bytes),
            )
        if file.sha256 is not None and file_sha256(Path(local)) != file.sha256:
            raise HubUnavailable("the hub sent something else than it had announced")
        return Path(local)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (IntakeError, HubUnavailable):
            raise
        except AddressRefused as error:
            raise IntakeError(
                "hub_address_refused",
                "The hub sends the service to an address that is not public, which it does not follow. Use "
                "another repository, or ask the service's operator to name that host in `hf_hosts`.",
                f"{self.pointer}/id",
            ) from error
        except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, EntryNotFoundError) as error:
            raise self._explain(error) from error
        except (HTTPError, OSError) as error:
            raise HubUnavailable(f"the hub could not be reached ({type(error).__name__})") from error

    def _explain(self, error: BaseException) -> Exception:
        """An error of the hub's client in our words: nothing of its text, which has addresses."""
        if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, HfHubHTTPError):
            error = error.__cause__
        if isinstance(error, LocalEntryNotFoundError):  # by its class a missing file, in truth a failed request
            return HubUnavailable("the hub could not be reached")
        for kind, (code, message, place) in _USER_ERRORS.items():
            if isinstance(error, kind):
                return self._refusal(code, message, place)
        status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
        if status in _USER_STATUS:
            code, message = _USER_STATUS[status]
            return self._refusal(code, message, "id")
        return HubUnavailable(f"the hub answered {status}" if status else "the hub could not be reached")

    def _refusal(self, code: str, message: str, place: str) -> IntakeError:
        if not self.api.token:
            message = _WITHOUT_TOKEN.get(code, message)
        return IntakeError(code, message, f"{self.pointer}/{place}")


_NOT_FOUND: Final = (
    "hub_not_found",
    "The hub has no such repository, or the token that was sent may not see it. Check the id.",
)
_ASK: Final = (
    "this service sends no token of the hub for it. Set the project's own (`hub_token`), or ask the service's "
    "operator to name the repository in `hf_token_repos`"
)
_WITHOUT_TOKEN: Final = {
    "hub_not_found": f"The hub has no such repository, or it is private and {_ASK}, or check the id.",
    "hub_gated": f"The repository is gated, and {_ASK}.",
    "hub_unauthorized": f"The hub wants to know who asks for this, but {_ASK}.",
    "hub_forbidden": f"The hub does not give this to everybody, and {_ASK}.",
}
"""By code: what is said instead when the request had no token."""
_USER_ERRORS: Final[dict[type[Exception], tuple[str, str, str]]] = {
    # The first match counts, and a gated repository is a kind of repository not found.
    GatedRepoError: (
        "hub_gated",
        "The repository is gated: accept its terms on the hub with the account whose token is used.",
        "id",
    ),
    RepositoryNotFoundError: (*_NOT_FOUND, "id"),
    DisabledRepoError: ("hub_disabled", "The hub has disabled this repository.", "id"),
    RevisionNotFoundError: ("hub_revision_not_found", "The repository has no such revision.", "revision"),
    EntryNotFoundError: ("hub_file_not_found", "The repository does not have the file at this commit.", "id"),
    HFValidationError: ("hub_id_invalid", "This is not the id of a repository.", "id"),
}
_USER_STATUS: Final = {
    400: ("hub_bad_request", "The hub does not understand this id or revision."),
    401: ("hub_unauthorized", "The hub does not accept the token."),
    403: ("hub_forbidden", "The token may not read this repository."),
    404: _NOT_FOUND,
    410: _NOT_FOUND,
}


def open_repo(kind: str, repo_id: object, pointer: str, context: Context) -> HubRepo:
    """The repository with this id on the configured hub; nothing is asked yet."""
    if not isinstance(repo_id, str) or not _ID.fullmatch(repo_id) or ".." in repo_id:
        raise IntakeError("hub_id_invalid", "A hub id has the form owner/name.", f"{pointer}/id")
    _work.check = context.check
    _set_up_client(context.settings.hf_endpoint, context.settings.hf_hosts)
    api = HfApi(endpoint=context.settings.hf_endpoint, token=_token_for(repo_id, context))
    return HubRepo(kind, repo_id, pointer, context, api)


def _token_for(repo_id: str, context: Context) -> str | Literal[False]:
    """The project's own token; else the service's, where its operator lets every project act with it."""
    if context.hub_token is not None:
        return context.hub_token
    settings = context.settings
    allowed = any(fnmatchcase(repo_id, glob) for glob in settings.hf_token_repos)
    if settings.hf_token is None or not allowed:
        return False  # not None, with which the token is sent that the machine's user may have logged in with
    return settings.hf_token.get_secret_value()


_work: Final = threading.local()
"""`check` of the intake that this thread works for; the hub's library has one client for all."""


def _check() -> None:
    check: Callable[[], None] | None = getattr(_work, "check", None)
    if check is not None:
        check()


@lru_cache(maxsize=1)
def _set_up_client(endpoint: str, hosts: tuple[str, ...]) -> None:
    """Every request gets a time limit and goes to a public address or a host of the operator's, at each hop of its
    redirects; and no transfer runs in native threads that cannot be stopped."""
    constants.HF_HUB_DISABLE_XET = True
    constants.HF_HUB_DISABLE_TELEMETRY = True
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK_BYTES
    trusted = Trusted(hosts, urls=[endpoint])

    def make_client() -> Any:
        client = hub_http.default_client_factory()
        client.timeout = TIMEOUT_SECONDS
        # A proxy of the environment stays: what it reaches is its operator's.
        pool = checked(client._transport, trusted)._pool
        pool._network_backend = Interruptible(pool._network_backend, _check, ReadTimeout)
        return client

    set_client_factory(make_client)


def _watch(check: Callable[[], None], limit: int) -> type:
    """A progress bar that shows nothing, stops the transfer when asked to, and bounds it."""

    class Watch:
        def __init__(self, *_: Any, **__: Any) -> None:
            self.received = 0

        def __enter__(self) -> "Watch":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, received: float | None = 1) -> None:
            check()
            self.received += int(received or 0)
            if self.received > limit:
                raise HubUnavailable("the hub sent more than it had announced")

    return Watch
