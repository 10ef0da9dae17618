"""A job's model in a repository of a Hugging Face hub, its card as the repository's README.

Needs the extra `hub`. The token is the caller's (`token`, else what huggingface_hub finds: HF_TOKEN, its login):
the service is given none that may write.
"""

import tempfile
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple

from secateur.client import Client
from secateur.errors import SecateurError
from secateur.inputs import datasets_of
from secateur.transport import Answer

CARD: Final = "README.md"
WEIGHTS: Final = (".safetensors", ".safetensors.index.json")
"""What an earlier commit may have left that the model of this one has not: only such files are taken away."""
PACKED: Final = """
## Packed

These files are the packed form of the model that is described above: `packed-*.safetensors` hold the weights as a
bitmask and the numbers that are not zero. With `pip install 'secateur[packed]'`, `secateur unpack FOLDER TARGET`
makes the plain folder, byte for byte; with torch and transformers,
`secateur.packed.loading.from_pretrained(FOLDER)` loads it as it is.
"""


class Published(NamedTuple):
    """The commit that has the model, and where to see it."""

    repo: str
    commit: str
    url: str


def publish(
    client: Client,
    job: str,
    repo: str,
    folder: Path,
    *,
    private: bool = True,
    packed: bool = False,
    licence: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> Published:
    """Make the repository hold the job's model; again, it changes nothing.

    repo: `owner/name`, made when there is none. folder: below which the model's files are downloaded, or are
    already. private: of a repository that is made. packed: the packed form in place of the plain one. licence: an
    identifier of the hub's, for the card; by default what the card says. Raises SecateurError.
    """
    found: Answer = client.job(job)
    if found["state"] != "succeeded":
        raise SecateurError(f"{job} is {found['state']}: the model of a job that has succeeded is published")
    hub = _hub()
    made = folder / "model"
    _only_its_own(client.download(job, folder, only=[f"{made.name}/*"]), made, job)
    packed = packed and not any(made.glob("packed-*.safetensors"))  # else the job has packed it
    with tempfile.TemporaryDirectory(prefix="secateur-hub-") as temporary:
        model = _pack(made, Path(temporary) / "packed") if packed else made
        files = {path.name: path for path in sorted(model.iterdir()) if _is_sent(path)}
        card = write_card(hub, made / CARD, _datasets(client, found), licence, packed=packed)
        try:
            return _commit(hub.HfApi(endpoint=endpoint, token=token), hub, repo, files, card, job, private)
        except (
            hub.errors.HfHubHTTPError,
            hub.errors.HFValidationError,
            OSError,
            ValueError,
            RuntimeError,
        ) as error:
            raise SecateurError(f"{repo}: {error}") from error


def write_card(hub: Any, path: Path, datasets: list[str], licence: str | None, *, packed: bool) -> str:
    """The artifact's card, with what only this side knows: the hub's datasets, the licence, the form."""
    if not path.is_file():
        raise SecateurError("the job's artifact has no model card, so there is no README to publish")
    card = hub.ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=False)
    if datasets:
        card.data.datasets = datasets
    if licence is not None:
        card.data.license = licence
        card.data.license_link = card.data.license_name = None
    if packed:
        card.data.library_name = "secateur"
    return str(card) + (PACKED if packed else "")


def _datasets(client: Client, job: Answer) -> list[str]:
    """Repositories of the hub that the job's texts came from."""
    hubs = (each.get("hub") for each in datasets_of(client, job, ("dataset",)).values())
    return sorted({str(each["id"]) for each in hubs if each})


def _only_its_own(downloaded: Iterable[Path], model: Path, job: str) -> None:
    """Raise SecateurError where the folder has files of something else: a hub's readers would load them."""
    own = {path.name for path in downloaded if path.parent == model}
    others = sorted(path.name for path in model.iterdir() if _is_sent(path) and path.name not in own)
    if others:
        raise SecateurError(f"{model} has {others[0]}, which is no file of {job}: name another folder")


def _is_sent(path: Path) -> bool:
    """Not the card, which is written anew, nor what is hidden, such as a download that was broken off."""
    return path.is_file() and path.name != CARD and not path.name.startswith(".")


def _pack(model: Path, target: Path) -> Path:
    pack = import_module("secateur.packed.folder").pack_folder
    pack(model, target)
    return target


def _commit(
    api: Any, hub: Any, repo: str, files: Mapping[str, Path], card: str, job: str, private: bool
) -> Published:
    api.create_repo(repo, private=private, exist_ok=True)
    there = api.list_repo_files(repo)
    stale = [name for name in there if name.endswith(WEIGHTS) and name not in files and "/" not in name]
    operations = [hub.CommitOperationAdd(name, path) for name, path in files.items()]
    operations.append(hub.CommitOperationAdd(CARD, card.encode()))
    operations += [hub.CommitOperationDelete(name) for name in stale]
    commit = api.create_commit(repo, operations, commit_message=f"Model of {job}")
    return Published(repo, str(commit.oid), str(commit.commit_url))


def _hub() -> Any:
    try:
        return import_module("huggingface_hub")
    except ModuleNotFoundError as error:
        raise SecateurError(
            f"publishing to a hub needs its client ({error.name} is missing): pip install 'secateur[hub]'"
        ) from error
