"""Projects, keys and what hangs on them, as callers see them."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from app.auth.scopes import Scope
from app.kit.clock import Instant
from app.kit.fields import VISIBLE, Name
from app.models.references import RootPath
from app.quotas.catalogue import Quota, own_quotas
from app.tables.audit import AuditEvent
from app.tables.auth import ApiKey, HubToken, Project
from secateur.spec.strict import Strict

MOST_GRACE: Final = 7 * 86_400


def _unlike(roots: list[str]) -> list[str]:
    if len(set(roots)) != len(roots):
        raise ValueError("must not name a folder twice")
    return roots


Roots = Annotated[
    list[RootPath],
    Field(max_length=20, description="Folders below the service's `project_roots` that are this project's alone."),
    AfterValidator(_unlike),
]


QuotaLimit = Annotated[int, Field(ge=0, le=2**53)] | None


class ProjectCreate(Strict):
    """A new project."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "search", "model_roots": []}]})

    name: Name = Field(description="No other project has it.")
    model_roots: Roots = Field(default=[])


class ProjectPatch(Strict):
    """What is to change; the rest stays."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"disabled": True}]})

    name: Name | None = None
    disabled: bool | None = Field(
        default=None, description="No key of a disabled project works. Its jobs go on, and nothing is deleted."
    )
    model_roots: Roots | None = None
    share: float | None = Field(
        default=None, ge=0.001, le=1000, description="Its weight where projects compete for workers; by default 1."
    )
    quotas: dict[Annotated[Quota, Field(strict=False)], QuotaLimit] | None = Field(
        default=None, description="Those that are named, others stay; null is no limit."
    )


class ProjectRead(BaseModel):
    """A project: everything belongs to exactly one."""

    model_config = ConfigDict(title="Project")

    id: str
    object: Literal["project"] = "project"
    name: str
    disabled: bool
    model_roots: list[str]
    share: float = Field(description="Its weight where projects compete for workers.")
    quotas: dict[Quota, int | None] = Field(
        description="Its own quotas; null is no limit, and of what is missing it has the service's."
    )
    created_at: datetime

    @classmethod
    def of(cls, project: Project) -> "ProjectRead":
        account = project.account
        return cls(
            id=project.id,
            name=project.name,
            disabled=project.disabled_at is not None,
            model_roots=project.model_roots,
            share=account.share if account is not None else 1.0,
            quotas=own_quotas(account),
            created_at=project.created_at,
        )


class KeyState(StrEnum):
    """Whether a key works."""

    alive = "alive"
    expired = "expired"
    revoked = "revoked"


class KeyCreate(Strict):
    """A new key."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"name": "ci", "scopes": ["jobs:read", "jobs:write"], "expires_at": "2100-01-01T00:00:00Z"}
            ]
        }
    )

    name: Name = Field(description="What the key is for.")
    scopes: Annotated[list[Annotated[Scope, Field(strict=False)]], Field(min_length=1, max_length=len(Scope))]
    expires_at: Annotated[Instant, Field(strict=False)] | None = Field(
        default=None, description="By default never."
    )


class KeyPatch(Strict):
    """What is to change."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "ci, new runner"}]})

    name: Name


class KeyRotate(Strict):
    """How the old secret ends."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"grace_seconds": 3600}]})

    grace_seconds: int = Field(
        default=86_400,
        ge=0,
        le=MOST_GRACE,
        description="For so long the secret of before works beside the new one; 0 ends it at once.",
    )


class KeyRead(BaseModel):
    """A key without its secret, which is nowhere kept."""

    model_config = ConfigDict(title="ApiKey")

    id: str
    object: Literal["api_key"] = "api_key"
    project: str
    name: str
    hint: str = Field(description="How the secret begins.")
    scopes: list[str]
    state: KeyState
    created_at: datetime
    created_by: str | None = Field(description="`key_…`; null when it was made on the command line.")
    expires_at: datetime | None
    revoked_at: datetime | None
    rotated_at: datetime | None
    previous_valid_until: datetime | None = Field(description="Until then the secret of before works, too.")
    last_used_at: datetime | None = Field(description="To the minute.")

    @classmethod
    def of(cls, key: ApiKey, expired: bool) -> "KeyRead":
        return cls(**_shown(key, expired))


class KeyCreated(KeyRead):
    """A key with its secret: shown this once."""

    model_config = ConfigDict(title="ApiKeyCreated")

    secret: str = Field(description="`sctr_…`; put it where it is needed, nobody can show it again.")

    @classmethod
    def shown_once(cls, key: ApiKey, secret: str) -> "KeyCreated":
        return cls(**_shown(key, expired=False), secret=secret)


def _shown(key: ApiKey, expired: bool) -> dict[str, object]:
    own = {name: getattr(key, name) for name in KeyRead.model_fields if hasattr(key, name)}
    state = KeyState.revoked if key.revoked_at else KeyState.expired if expired else KeyState.alive
    return {**own, "project": key.project_id, "state": state, "previous_valid_until": key.previous_until}


class WhoamiProject(BaseModel):
    """The project of the key."""

    id: str
    name: str


class Whoami(BaseModel):
    """The key that asks."""

    object: Literal["whoami"] = "whoami"
    project: WhoamiProject
    key: KeyRead
    limits: dict[Quota, int | None] = Field(
        description="Quotas of the project; null is any number. See `/v1/usage`."
    )


Token = Annotated[str, StringConstraints(min_length=8, max_length=500, pattern=VISIBLE)]


class HubTokenPut(Strict):
    """A token of the hub."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"token": "hf_0123456789abcdef"}]})

    token: Token = Field(description="Best a fine-grained one that may only read what is to be fetched.")


class HubTokenRead(BaseModel):
    """That there is a token; never the token."""

    model_config = ConfigDict(title="HubToken")

    object: Literal["hub_token"] = "hub_token"
    set: bool
    hint: str | None = Field(description="How it ends.")
    updated_at: datetime | None
    updated_by: str | None = Field(description="`key_…`")

    @classmethod
    def of(cls, token: HubToken | None) -> "HubTokenRead":
        if token is None:
            return cls(set=False, hint=None, updated_at=None, updated_by=None)
        return cls(set=True, hint=token.hint, updated_at=token.updated_at, updated_by=token.updated_by)


class AuditRead(BaseModel):
    """Who changed what."""

    model_config = ConfigDict(title="AuditEvent")

    id: str
    object: Literal["audit_event"] = "audit_event"
    at: datetime
    project: str | None = Field(description="What was changed belongs to it; null when nobody knows.")
    actor_project: str | None = Field(description="Of the key that asked; another one when an operator did.")
    key: str | None = Field(description="`key_…`; null for the command line and for keys that are none.")
    action: str = Field(description="The call's `operationId`, or `authenticate` for refused keys.")
    object_id: str | None
    outcome: str = Field(description="`done`, or the code of the problem.")
    count: int = Field(description="Refusals of the same kind within some seconds are one event.")
    request_id: str | None
    client: str | None = Field(description="Address of the caller, as the service sees it.")

    @classmethod
    def of(cls, event: AuditEvent) -> "AuditRead":
        own = {name: getattr(event, name) for name in cls.model_fields if name in event.__table__.columns}
        return cls(**own, project=event.project_id, key=event.key_id)
