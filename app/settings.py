"""Every setting of the service in one class, read from SECATEUR_* variables."""

import os
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from types import NoneType
from typing import Annotated, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from secateur.spec.request import MOST_THREADS, Device

LogFormat = Literal["json", "text"]


class Settings(BaseSettings):
    """Settings of the API, the dispatcher and the workers; each part reads the ones it needs."""

    # A refused setting may be a secret or hold one, so errors do not show it.
    model_config = SettingsConfigDict(env_prefix="SECATEUR_", extra="ignore", hide_input_in_errors=True)

    database_url: SecretStr
    """PostgreSQL, as `postgresql+psycopg://user:password@host:port/name`."""
    database_pool: int = Field(default=10, ge=1)
    """Connections one process keeps at the most."""
    connections: int = Field(default=5000, ge=1)
    """Connections that one process of the API holds at the most; fewer where it may not open so many files."""
    connections_per_address: int = Field(default=2500, ge=1)
    """Of them, those of one address; behind a proxy all are of the proxy's."""
    statement_seconds: float = Field(default=120, gt=0)
    """A statement that takes longer is ended by the database; migrations have no such limit."""
    held_waits_per_project: int = Field(default=2400, ge=1)
    """Waiting calls and streams that all keys of a project hold at once in one process; less than half of its
    `connections`, so that no project holds them all."""
    held_waits: int = Field(default=2000, ge=1)
    """Waiting calls (`?wait=`, streams) that one API key may hold open in one process of the API."""
    stop_seconds: int = Field(default=8, ge=1)
    """How long the API, asked to stop, lets requests under way go on; waiting calls are answered at once."""
    broker_url: SecretStr
    """Redis or Valkey, as `redis://:password@host:port/0`."""
    secret: SecretStr = Field(min_length=32)
    """Pepper of the API keys' HMAC; changing it invalidates every key."""

    store_url: str
    """`file:///folder` or `s3://bucket/prefix`."""
    s3_endpoint: str | None = None
    """URL of an S3 server that is not Amazon's."""
    s3_region: str = "us-east-1"
    s3_access_key_id: SecretStr | None = None
    s3_secret_access_key: SecretStr | None = None
    s3_public_endpoint: str | None = None
    """Where callers reach the same S3 server, when that differs from `s3_endpoint`."""
    presign_downloads: bool = False
    """Answer a download with a redirect to a presigned URL of the S3 server instead of streaming it, and give out
    such URLs for the files of models that are uploaded."""

    model_roots: Annotated[tuple[Path, ...], NoDecode] = ()
    """Folders below which models may be registered by path, separated as in PATH."""
    project_roots: Path | None = None
    """Folder below which operators may give a project model roots of its own, over HTTP. Outside of every one of
    `model_roots`, which are all projects'."""
    work_dir: Path = Path("/var/lib/secateur")
    """Scratch space and the bounded cache of a worker."""
    cache_bytes: int | None = Field(default=None, ge=0)
    """Bound of the staging cache; the least recently used entries go first. Without it: a third of the disk."""

    heartbeat_seconds: float = Field(default=15, gt=0)
    """At most a third of `lease_seconds`, so that a lease survives two lost heartbeats."""
    lease_seconds: float = Field(default=75, gt=0)
    """A worker that does not renew within this time has lost its job."""
    reaper_seconds: float = Field(default=15, gt=0)
    dispatch_seconds: float = Field(default=1, gt=0)
    """Longest pause between two looks at the outbox."""
    notify_again_seconds: float = Field(default=60, gt=0)
    """After this time a published but unclaimed job is published again (with backoff)."""
    max_attempts: int = Field(default=3, ge=1)
    """Attempts without progress that the infrastructure may lose (workers, engines, store) before a job fails."""
    max_memory_attempts: int = Field(default=2, ge=1)
    """Attempts without progress that may run out of memory before a job fails."""
    caution_seconds: float = Field(default=5, ge=0)
    """A worker that lost an attempt without a committed block waits so long before it claims again; each more in a
    row doubles it, up to ten minutes."""
    max_preemptions: int = Field(default=50, ge=1)
    """Attempts without progress that workers may give back, because they stop or their GPU fails, before a job
    fails."""
    pause_seconds: float = Field(default=300, ge=0)
    """How long a block may still go on after its job was asked to pause; then its engine is killed."""
    stall_seconds: float = Field(default=1800, gt=0)
    """An engine that reports nothing for so long is killed, unless its reports were ever nearly as rare."""
    store_retry_seconds: float = Field(default=600, gt=0)
    """A worker tries again for so long before an object store that it cannot use fails the attempt."""
    log_format: LogFormat | None = None
    """`json`: an object a line; `text`: for people. Without it: text on a terminal, JSON anywhere else."""
    metrics_listen: str | None = None
    """Where the API and the dispatcher show Prometheus metrics, each at a port of its own: `0.0.0.0:9464`. Without
    it nowhere. No key is asked for there: let only Prometheus reach it."""
    health_dir: Path | None = None
    """Where a dispatcher notes each turn of its loops, for `python -m app.dispatch.health`."""
    fair_share_half_life_hours: float = Field(default=24, gt=0)
    """What a project has had of the workers counts half after this time; several times the longest job."""
    route_by_memory: bool = True
    """Whether a worker leaves jobs alone that were estimated to need more memory than it has."""
    priority_across_projects: bool = False
    """Let a job of higher priority go before other projects' jobs, whatever these have had. Only where all
    projects are one house's: anybody may ask for the highest."""
    quota_queued_jobs: int | None = Field(default=500, ge=0)
    """Jobs of one project that may wait, queued or paused. Of this quota and the next ones: a project's own, which
    an operator sets, goes before the setting; the empty text is no limit."""
    quota_running_jobs: int | None = Field(default=None, ge=1)
    """Jobs of one project that may run at once."""
    quota_pending_tasks: int | None = Field(default=100, ge=0)
    """Models and datasets of one project being taken in, and plans being made."""
    quota_running_intakes: int | None = Field(default=1, ge=1)
    """Of those, models and datasets that are taken in at once; fewer than there are CPU workers, so that one
    project's slow hub holds nobody up."""
    quota_stored_bytes: int | None = Field(default=2**40, ge=0)
    """Of one project's models, datasets, artifacts and checkpoints. A job that was accepted may pass it."""
    quota_uploads: int | None = Field(default=8, ge=0)
    """Uploads of one project that one process of the API receives at once."""
    quota_upload_bytes: int | None = Field(default=16 * 2**30, ge=0)
    """Their bytes, as announced; without an announcement, as they come."""
    idempotency_hours: float = Field(default=24, gt=0)
    """A repeated call gets the first answer for so long."""
    audit_days: float = Field(default=365, gt=0)
    """The audit log is kept for so long."""
    audit_seconds: float = Field(default=10, gt=0)
    """Refused authentications are counted for so long and then written as one."""
    webhook_http: bool = False
    """Whether webhooks may have `http://` addresses: for receivers in the operator's own network."""
    webhook_networks: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = ()
    """Networks that webhooks may reach beside the public internet, with commas between: `10.1.0.0/16,::1/128`."""
    webhook_concurrency: int = Field(default=128, ge=1)
    """Deliveries that one sending process has under way at once; one project has at most a quarter of them."""
    webhook_failing_hours: float = Field(default=72, gt=0)
    """A webhook that has failed for so long, without a good attempt, is disabled."""
    webhook_kept_days: float = Field(default=7, gt=0)
    """For so long finished deliveries stay in the log."""
    plan_hours: float = Field(default=24, gt=0)
    """Plans (dry runs of jobs) are dropped after this time."""

    garbage_seconds: float = Field(default=86_400, ge=0)
    """Objects that nothing refers to are left alone for so long."""
    sweep_seconds: float = Field(default=3_600, gt=0)
    """Pause between two sweeps of the whole store."""
    checkpoint_days: float = Field(default=7, ge=0)
    """For so long a failed or cancelled job can be retried from its checkpoint."""

    rate_limits: bool = True
    """Whether calls are counted at all; a proxy in front may do it instead."""
    rate_reads: int = Field(default=18_000, ge=0)
    """Reading calls of one key a minute, counted by each process of the API; 0 is any number."""
    rate_writes: int = Field(default=300, ge=0)
    """Calls of one key a minute that make, change or delete something, counted over all processes while the broker
    answers; 0 is any number."""
    rate_uploads: int = Field(default=600, ge=0)
    """Calls of one key a minute that carry a file or a part of one; as `rate_writes`."""
    rate_anonymous: int = Field(default=600, ge=0)
    """Calls of one address a minute without a key that has worked lately, counted by each process; 0 is any
    number."""
    max_upload_bytes: int = Field(default=2 * 2**30, ge=1)
    """Of one dataset, packed or not, and of one call that sends a part of a model's file."""
    upload_hours: float = Field(default=24, gt=0)
    """A model of whose files nothing has come for so long has failed."""
    max_body_bytes: int = Field(default=2**18, ge=1)
    """Of a job's or a plan's spec; other JSON bodies may have 64 KiB at the most."""
    dashboard: bool = True
    """Whether the dashboard is served below `/ui`. It can do what its reader's key can."""
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Names or addresses that a request's Host header may have, with commas between; none for any. `/livez` and
    `/readyz` answer under every name."""
    intake_seconds: float = Field(default=21_600, gt=0)
    """How long taking in a model or a hub dataset may take, its download with it; then it fails as the user's."""
    disk_reserve_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Part of each disk of ours (work folder, folder store) that must stay free: uploads that would go into it are
    refused, and a worker claims nothing. Or `disk_reserve_bytes`, whichever is less."""
    disk_reserve_bytes: int = Field(default=10 * 2**30, ge=0)
    """0 switches both off."""
    log_lines: int = Field(default=20_000, ge=1)
    """Lines of engine log kept per job."""

    device: Device = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:0`, or several GPUs for one job at a time, `cuda:0,1`; where the engine
    computes. Several must be alike, and give the bytes of one. `auto` is settled when the worker starts: the first
    GPU, or the processor where nothing looks like a GPU."""
    resume_on: Literal["any", "same_device"] = "any"
    """Where a job goes on that was interrupted. `any`: wherever there is room, with a note in its history when the
    device is another one, whose bytes may differ. `same_device`: it waits for a worker with a device like the one
    it was begun on: same model, driver and libraries."""
    device_foreign_bytes: int = Field(default=2 * 2**30, ge=0)
    """Memory of a worker's GPU that other processes may hold; while they hold more it claims nothing."""
    gpu_lock_dir: Path = Path("/tmp/secateur-gpus")  # noqa: S108 - all workers of a host must find it
    """Where workers of one host lock their GPUs, each for itself; containers must share it as a volume."""
    threads: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, le=MOST_THREADS)
    """Threads of the engine; part of what makes a result reproducible."""
    engine_memory_bytes: int | None = Field(default=None, ge=2**28)
    """Memory that a job's engine may hold; then its attempt ends as out of memory. Without it: nine tenths of the
    machine's, or of what the worker's control group has."""
    child_memory_bytes: int = Field(default=2 * 2**30, ge=2**28)
    """Memory of a child that reads a model or a text before any job does, beside what the size of its files
    explains; a file that takes more is refused."""
    child_seconds: float = Field(default=300, ge=1)
    """How long such a child may compute, or be silent, beside what the size of its files explains."""
    hidden_bytes: int | None = Field(default=None, ge=0)
    """Hidden states that an engine holds in memory, beside those that fit on its GPU; the rest goes to a scratch
    file below `work_dir`. Without it: an eighth of what the engine may hold."""

    task_data: Path | None = None
    """A Hugging Face cache (`HF_HOME`) that jobs' engines, which have no network, read the data of the
    lm-evaluation-harness's own tasks from; they write nothing there. Without it only tasks with a dataset run."""

    hf_endpoint: str = "https://huggingface.co"
    """Its host may have an internal address; what it redirects to must be public, or among `hf_hosts`."""
    hf_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Internal hosts to which the hub may redirect, as `name` or `name:port` with commas between."""
    hf_token: SecretStr | None = None
    """The service's own token of the hub; of use only with `hf_token_repos`."""
    hf_token_repos: Annotated[tuple[str, ...], NoDecode] = ()
    """Repositories for which the token is sent, as globs with commas between them: `meta-llama/*,google/gemma-*`.
    Whatever they match, every project of the service may read; never name an owner whose private ones it should
    not."""

    def secrets(self) -> list[str]:
        """What nobody may read in a log; a URL where its password is meant."""
        public = self.s3_access_key_id  # a name, which others may be called, too
        given = [value for _, value in self if isinstance(value, SecretStr) and value is not public]
        return [value.get_secret_value() for value in given]

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object, info: ValidationInfo) -> object:
        """As compose files and charts write what is not set; of a quota it is no limit."""
        optional = NoneType in get_args(cls.model_fields[info.field_name or ""].annotation)
        return None if value == "" and optional else value

    @field_validator("model_roots", mode="before")
    @classmethod
    def _split_roots(cls, value: object) -> object:
        """`a:b` becomes two folders; empty parts are dropped."""
        if isinstance(value, str):
            return tuple(Path(part) for part in value.split(os.pathsep) if part)
        return value

    @field_validator("hf_token_repos", "hf_hosts", "allowed_hosts", "webhook_networks", mode="before")
    @classmethod
    def _split_list(cls, value: object) -> object:
        """`a/*, b/c` becomes two entries; empty parts are dropped."""
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("store_url")
    @classmethod
    def _known_store(cls, value: str) -> str:
        url = urlsplit(value)
        folder = url.scheme == "file" and not url.netloc and url.path.startswith("/")
        if not folder and not (url.scheme == "s3" and url.netloc):
            raise ValueError("must be file:///an/absolute/folder or s3://bucket/prefix")
        return value

    @field_validator("metrics_listen")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        host, _, port = value.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            raise ValueError("must be an address and a port: 0.0.0.0:9464")
        return value

    @field_validator("s3_endpoint", "s3_public_endpoint", "hf_endpoint")
    @classmethod
    def _http(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        return value

    @field_validator("broker_url")
    @classmethod
    def _only_redis(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().startswith(("redis://", "rediss://")):
            raise ValueError("must start with redis:// or rediss:// (also for Valkey)")
        return value

    @model_validator(mode="after")
    def _own_roots_apart(self) -> Self:
        if self.project_roots is not None:
            own = self.project_roots.resolve()
            shared = [root.resolve() for root in self.model_roots]
            if any(own.is_relative_to(root) or root.is_relative_to(own) for root in shared):
                raise ValueError("project_roots must lie outside of model_roots, which every project may read")
        return self

    @model_validator(mode="after")
    def _beat_in_time(self) -> Self:
        if self.heartbeat_seconds * 3 > self.lease_seconds:
            raise ValueError("heartbeat_seconds must be at most a third of lease_seconds")
        return self

    @field_validator("database_url")
    @classmethod
    def _only_psycopg(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().startswith("postgresql+psycopg://"):
            raise ValueError("must start with postgresql+psycopg:// (PostgreSQL is the one database)")
        return value


@lru_cache
def get_settings() -> Settings:
    """The process's settings, read once."""
    return Settings()
