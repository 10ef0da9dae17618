from types import NoneType
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from app.settings import Settings

GOOD: dict[str, Any] = {
    "database_url": "postgresql+psycopg://me:hidden-word@db/secateur",
    "broker_url": "redis://:hidden-word@broker:6379/0",
    "secret": "hidden-word, and long enough for a pepper",
    "store_url": "s3://bucket/prefix",
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"store_url": "file:///data", "device": "cuda:1", "broker_url": "rediss://broker"},
        {"heartbeat_seconds": 20, "lease_seconds": 60},
    ],
)
def test_sound_settings_are_taken(changes: dict[str, Any]) -> None:
    assert Settings.model_validate(GOOD | changes)


def test_lists_are_written_as_one_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_HF_TOKEN_REPOS", "meta-llama/*, google/gemma-*,")
    assert Settings(**GOOD).hf_token_repos == ("meta-llama/*", "google/gemma-*")


@pytest.mark.parametrize(
    "name",
    [name for name, field in Settings.model_fields.items() if NoneType in get_args(field.annotation)],
)
def test_an_empty_text_is_no_value_where_none_is_allowed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"SECATEUR_{name.upper()}", "")
    assert getattr(Settings(**GOOD), name) is None


@pytest.mark.parametrize(
    ("changes", "fix"),
    [
        ({"heartbeat_seconds": 30, "lease_seconds": 60}, "at most a third of lease_seconds"),
        ({"store_url": "file://data/store"}, "file:///an/absolute/folder"),
        ({"store_url": "/data/store"}, "file:///an/absolute/folder"),
        ({"store_url": "s3:///prefix"}, "s3://bucket/prefix"),
        ({"metrics_listen": "9464"}, "0.0.0.0:9464"),
        ({"s3_endpoint": "seaweedfs:8333"}, "http://"),
        ({"device": "gpu"}, "cuda"),
        ({"broker_url": "amqp://:hidden-word@broker"}, "redis://"),
        ({"database_url": "postgresql://me:hidden-word@db/secateur"}, "postgresql+psycopg://"),
        ({"secret": "hidden-word"}, "32"),
    ],
)
def test_refused_settings_name_the_fix_and_no_secret(changes: dict[str, Any], fix: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate(GOOD | changes)
    assert fix in str(caught.value)
    assert "hidden-word" not in str(caught.value)
