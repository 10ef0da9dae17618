"""The client: a method for each call of the API (tests/secateur/test_operations.py: which, and the exceptions)."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from secateur import download, upload, upload_model
from secateur.errors import SecateurError
from secateur.projects import Projects
from secateur.transport import Json, Transport, path_of
from secateur.waiting import FINISHED, READY, OnUpdate, follow, wait_for
from secateur.webhooks import Webhooks

if TYPE_CHECKING:
    from secateur.spec.job import JobContinue, JobCreate


class Client:
    """A Secateur server, seen with one API key.

    with Client("http://127.0.0.1:8640", key) as client:
        job = client.submit(spec)
        client.wait(job["id"])
        client.download(job["id"], Path("pruned"))

    Connection errors, time-outs, 502, 503, 504 and 429 are tried again for `retry_seconds` where that is harmless;
    what makes something names its request by an Idempotency-Key, so that it always is. Methods
    raise ProblemError when the server refuses, NotReachable when it does not answer.
    """

    def __init__(self, url: str, key: str, *, timeout: float = 60, retry_seconds: float = 30) -> None:
        self._transport = Transport(url, key, timeout=timeout, retry_seconds=retry_seconds)

    @property
    def url(self) -> str:
        return self._transport.url

    @property
    def webhooks(self) -> Webhooks:
        return Webhooks(self._transport)

    @property
    def projects(self) -> Projects:
        return Projects(self._transport)

    def whoami(self) -> Json:
        """The project, scopes and expiry of the key in use."""
        return self._transport.call("GET", "/v1/whoami")

    def audit(self, **filters: Any) -> Iterator[Json]:
        """Who changed what, newest first.

        filters: project, key, action, object_id, outcome, created_after, created_before, limit (of one page).
        """
        return self._transport.pages("/v1/audit", filters)

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Jobs

    def submit(self, spec: "Json | JobCreate | JobContinue", *, idempotency_key: str | None = None) -> Json:
        """Start a job; with `continues` in the spec, from another job's final state.

        Sent again with the same key and spec, it returns the same job.
        """
        return self._transport.create("/v1/jobs", key=idempotency_key, json=_json(spec))

    def job(self, id: str) -> Json:
        return self._transport.call("GET", path_of("jobs", id))

    def tagged_job(self, id: str) -> tuple[Json, str | None]:
        """A job and its ETag, for `change`."""
        found = self._transport.look(path_of("jobs", id), held=0, etag=None)
        return found.body or {}, found.etag

    def queue_place(self, id: str) -> Json:
        """How many jobs are started before this one (`ahead`), and what it `waits_for`."""
        return self._transport.call("GET", path_of("jobs", id, "queue"))

    def jobs(self, **filters: Any) -> Iterator[Json]:
        """Jobs, newest first.

        filters: state, method, model, label ("k=v"), created_after, created_before, continues, lineage, limit (of
        one page).
        """
        return self._transport.pages("/v1/jobs", filters)

    def cancel(self, id: str) -> Json:
        """Ask for the end of a job; harmless when it is cancelled already."""
        return self._transport.call("POST", path_of("jobs", id, "cancel"), repeatable=True)

    def pause(self, id: str) -> Json:
        """Take a job from its worker after the block it works on, or from the queue. Harmless if paused."""
        return self._transport.call("POST", path_of("jobs", id, "pause"), repeatable=True)

    def resume(self, id: str) -> Json:
        """Let a paused job go on behind its last finished block."""
        return self._transport.call("POST", path_of("jobs", id, "resume"), repeatable=True)

    def retry(self, id: str) -> Json:
        """The new job that goes on where a failed or cancelled one stopped; the same one when called again."""
        return self._transport.create(path_of("jobs", id, "retry"))

    def change(self, id: str, *, if_match: str | None = None, **fields: Any) -> Json:
        """Change a job. fields: labels, priority, limits ({"max_runtime": "12h", "max_pending": …}).

        if_match: the ETag that the job must still have.
        """
        headers = {"If-Match": if_match} if if_match is not None else None
        # Twice does no harm either, unless the first time has changed the ETag.
        again = if_match is None
        return self._transport.call("PATCH", path_of("jobs", id), json=fields, headers=headers, repeatable=again)

    def delete_job(self, id: str) -> None:
        """Delete a finished job with its history and files."""
        self._transport.delete(path_of("jobs", id))

    def events(self, id: str, after: int = 0) -> Iterator[Json]:
        """A job's events with a number above `after`."""
        return self._transport.pages(path_of("jobs", id, "events"), {"after": after})

    def logs(self, id: str, after: int = 0) -> Iterator[Json]:
        """Lines that the engine printed, with a number above `after`."""
        return self._transport.pages(path_of("jobs", id, "logs"), {"after": after})

    def last_logs(self, id: str, count: int) -> list[Json]:
        """The last lines that the engine printed, oldest first."""
        newest = self._transport.pages(path_of("jobs", id, "logs", "tail"), {"limit": min(max(count, 1), 1000)})
        return list(islice(newest, count))[::-1]

    def follow_events(self, id: str, after: int = 0, *, every: float = 0.2) -> Iterator[Json]:
        """Events above `after` as they come, until the job is finished; a server that is away for a while is
        waited for as in `wait`. every: the least time between two requests."""
        return follow(self._transport, path_of("jobs", id), "events", after, every)

    def follow_logs(self, id: str, after: int = 0, *, every: float = 0.2) -> Iterator[Json]:
        """Lines above `after` as they come, as for `follow_events`."""
        return follow(self._transport, path_of("jobs", id), "logs", after, every)

    def attempts(self, id: str) -> Iterator[Json]:
        return self._transport.pages(path_of("jobs", id, "attempts"))

    def lineage(self, id: str) -> Json:
        """What a job continues (`path`), and all branches of the tree it belongs to (`jobs`)."""
        return self._transport.call("GET", path_of("jobs", id, "lineage"))

    def stages(self, id: str) -> Iterator[Json]:
        return self._transport.pages(path_of("jobs", id, "stages"))

    def evaluation(self, id: str) -> Json:
        """The matrix R (perplexity of every domain after every stage), BWT, and the protocols."""
        return self._transport.call("GET", path_of("jobs", id, "evaluation"))

    def matrices(self, id: str, **filters: Any) -> Iterator[Json]:
        """One record a matrix and stage. filters: as for `sensitivity`."""
        return self._transport.pages(path_of("jobs", id, "matrices"), filters)

    def sensitivity(self, id: str, **filters: Any) -> Iterator[Json]:
        """One summary a matrix and stage.

        filters: stage, domain, block, matrix (a name or a glob), lineage (True: also the stages of the jobs that
        this one continues), basis ("domain", the default: scores by the stage's domain alone; "accumulated": by
        all domains so far, which chose the mask).
        """
        return self._transport.pages(path_of("jobs", id, "sensitivity"), filters)

    def block_sensitivity(self, id: str, **filters: Any) -> Iterator[Json]:
        """What of each stage's sensitivity falls to each block. filters: as for `sensitivity`."""
        return self._transport.pages(path_of("jobs", id, "sensitivity", "blocks"), filters)

    def export_history(self, id: str, target: Path, **filters: Any) -> None:
        """Write records and summaries into a Parquet file, one row a matrix and stage. filters: as for
        `sensitivity`. Raises DownloadError; what is there is replaced by a whole file only."""
        download.fetch_made(self._transport, path_of("jobs", id, "sensitivity.parquet"), filters, target)

    def compare(self, id: str, other: str, *, part: str | None = None, **filters: Any) -> Json:
        """Two jobs side by side; `history.matrices.data` has all matrices.

        part: "evaluation" or "history" alone. filters: stage, other_stage, matrix.
        """
        path = path_of("jobs", id, "compare", other)
        found = self._transport.call("GET", path, params={**filters, "part": part})
        matrices = found["history"]["matrices"] if found["history"] else {"next_cursor": None}
        while matrices["next_cursor"] is not None:
            more = {**filters, "part": "history", "cursor": matrices["next_cursor"]}
            page = self._transport.call("GET", path, params=more)["history"]["matrices"]
            matrices["data"] += page["data"]
            matrices["next_cursor"] = page["next_cursor"]
        return found

    def wait(
        self,
        id: str,
        *,
        timeout: float | None = None,
        every: float = 1.0,
        on_update: OnUpdate | None = None,
    ) -> Json:
        """The job once it is finished, however that is. Raises WaitTimeout.

        The server holds each request until there is news; every: the least time between two. on_update is called
        with the job at each change, and now and then without one. A server that is away for a while (five
        minutes) is waited for.
        """
        path = path_of("jobs", id)
        return wait_for(self._transport, path, FINISHED, every=every, timeout=timeout, on_update=on_update)

    # Plans

    def plan(self, spec: "Json | JobCreate | JobContinue", *, timeout: float | None = None) -> Json:
        """What a job would do, without the job: the plan once it is `ready`, or `failed` with its `error`.

        Raises WaitTimeout.
        """
        asked = self._transport.create("/v1/plans", json=_json(spec))
        return wait_for(self._transport, path_of("plans", asked["id"]), READY, every=0.5, timeout=timeout)

    def read_plan(self, id: str) -> Json:
        return self._transport.call("GET", path_of("plans", id))

    def plans(self, **filters: Any) -> Iterator[Json]:
        """Plans of the last day, newest first. filters: those of `jobs` but label, continues and lineage."""
        return self._transport.pages("/v1/plans", filters)

    # Artifacts

    def manifest(self, id: str) -> Json:
        """A finished job's files, with sha256 and size, and the digest over all of them."""
        return self._transport.call("GET", path_of("jobs", id, "artifacts"))

    def download(self, id: str, folder: Path, *, on_bytes: Callable[[int, int], None] | None = None) -> list[Path]:
        """Download every file of a job below `folder` and check it; what is there and correct stays.

        A broken download goes on where it ended, also in a later call. on_bytes(done, total) tells the progress.
        Raises UnsafePath before the first byte, DownloadError.
        """
        return download.download_all(self._transport, id, self.manifest(id), folder, on_bytes)

    def export_state(self, id: str, target: Path) -> None:
        """Write a job's final state (dense model's digest, lineage, spec, statistics, the blocks' pruned weights)
        into one tar file, to keep or to continue with the engine alone; the service does not take it in again.

        Raises DownloadError; what is there is replaced by a whole file only.
        """
        download.fetch_made(self._transport, path_of("jobs", id, "state"), {}, target)

    def verify(self, id: str, folder: Path) -> list[str]:
        """What is wrong with a downloaded folder, one line a file; empty when all is well."""
        return download.verify_folder(self.manifest(id), folder)

    def verify_stored(self, id: str) -> Json:
        """Let the server hash the stored files again: `ok`, and for each of `files` its `path` and `ok`.

        Minutes for a large model.
        """
        return self._transport.call("POST", path_of("jobs", id, "artifacts", "verify"), repeatable=True, slow=True)

    # Datasets

    def upload_dataset(
        self, path: Path, *, name: str | None = None, format: str | None = None, text_field: str | None = None
    ) -> Json:
        """Send a file, streamed. A txt or jsonl is ready at once, others are `pending`: see `wait_for_dataset`.

        format: txt, jsonl, csv or parquet, with .gz or .zst behind it when it is packed; by default as the file's
        name says. text_field: the column of the text or of the messages; by default text, messages or
        conversations.
        """
        return upload.upload_dataset(self._transport, path, name, format, text_field)

    def add_hub_dataset(self, name: str, **hub: Any) -> Json:
        """Refer to a dataset on a hub. hub: id, config, split, revision, text_field."""
        return self._transport.create("/v1/datasets", json={"name": name, "hub": hub})

    def dataset(self, id: str) -> Json:
        return self._transport.call("GET", path_of("datasets", id))

    def datasets(self, **filters: Any) -> Iterator[Json]:
        return self._transport.pages("/v1/datasets", filters)

    def wait_for_dataset(self, id: str, *, timeout: float | None = None) -> Json:
        """The dataset once it is ready or failed."""
        return wait_for(self._transport, path_of("datasets", id), READY, every=0.5, hold=False, timeout=timeout)

    def delete_dataset(self, id: str) -> None:
        """Refused while an unfinished job needs it."""
        self._transport.delete(path_of("datasets", id))

    # Models

    def add_model(self, name: str, source: Json) -> Json:
        """Register a model: `{"type": "folder", "path": …}`, `{"type": "hub", "id": …, "revision": …}` or
        `{"type": "gguf", "path": …, "dtype": "bfloat16"}`."""
        return self._transport.create("/v1/models", json={"name": name, "source": source})

    def upload_model(
        self,
        folder: Path,
        *,
        name: str | None = None,
        model: str | None = None,
        on_bytes: Callable[[int, int], None] | None = None,
    ) -> Json:
        """Send a folder with config.json, tokenizer and safetensors files; the model, whose files are then checked
        as every model's: see `wait_for_model`.

        model: the id of an upload that was broken off, which goes on. on_bytes(done, total) tells the progress.
        """
        if model is None:
            source = {"type": "upload", "files": upload_model.files_of(folder)}
            model = str(self.add_model(name or folder.resolve().name, source)["id"])
        try:
            upload_model.send_files(self._transport, model, folder, on_bytes)
            return self.complete_model(model)
        except (SecateurError, KeyboardInterrupt) as error:
            error.add_note(f"upload_model(folder, model={model!r}) goes on")
            raise

    def model_files(self, id: str) -> list[Json]:
        """Of a model that is being uploaded: what has been received of each file."""
        return list(self._transport.call("GET", path_of("models", id, "files"))["data"])

    def model_file(self, id: str, path: str) -> Json:
        """The same of one file."""
        return self._transport.call("GET", path_of("models", id, "files", path))

    def presign_model_file(self, id: str, path: str) -> Json:
        """`url` of the object store that takes the whole file by one PUT, until `expires_at`; a ProblemError
        `presign_unavailable` where files are sent to the service itself."""
        return self._transport.call("POST", path_of("models", id, "files", path, "presign"), repeatable=True)

    def complete_model(self, id: str) -> Json:
        """Say that all files of an upload have been sent; harmless again."""
        return self._transport.create(path_of("models", id, "complete"))

    def model(self, id: str) -> Json:
        return self._transport.call("GET", path_of("models", id))

    def models(self, **filters: Any) -> Iterator[Json]:
        return self._transport.pages("/v1/models", filters)

    def wait_for_model(self, id: str, *, timeout: float | None = None) -> Json:
        """The model once it is ready or failed."""
        return wait_for(self._transport, path_of("models", id), READY, every=0.5, hold=False, timeout=timeout)

    def delete_model(self, id: str) -> None:
        """Refused while any job refers to it, finished or not."""
        self._transport.delete(path_of("models", id))

    def methods(self) -> Json:
        """All methods with their parameters."""
        return self._transport.call("GET", "/v1/methods")

    def usage(self) -> Json:
        """The project's quotas: what is used of each, and what the limit is."""
        return self._transport.call("GET", "/v1/usage")


def _json(spec: "Json | JobCreate | JobContinue") -> Json:
    """As it is sent: what was not said is the server's to fill in."""
    return spec if isinstance(spec, dict) else spec.model_dump(mode="json", exclude_unset=True)
