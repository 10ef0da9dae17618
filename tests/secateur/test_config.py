"""Where the command line finds its server."""

import json
from pathlib import Path

import pytest

from secateur.config import Config, find_config
from secateur.errors import SecateurError


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder of its own, and no server in the environment."""
    for name in ("SECATEUR_URL", "SECATEUR_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SECATEUR_STATE", str(tmp_path))
    return tmp_path


def _local_stack(state: Path) -> None:
    (state / "client.json").write_text(json.dumps({"url": "http://local", "key": "local key"}))


def test_options_beat_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_URL", "http://environment")
    monkeypatch.setenv("SECATEUR_API_KEY", "environment key")
    assert find_config(None, None) == Config("http://environment", "environment key")
    assert find_config("http://option", "option key") == Config("http://option", "option key")


def test_local_stack_is_found(state: Path) -> None:
    _local_stack(state)
    assert find_config(None, None) == Config("http://local", "local key")


@pytest.mark.parametrize("url", ["http://local/", "HTTP://Local:80", "http://local:80/"])
def test_a_server_is_known_however_its_address_is_written(state: Path, url: str) -> None:
    _local_stack(state)
    assert find_config(url, None).key == "local key"


@pytest.mark.parametrize(
    "url",
    ["http://elsewhere", "https://local", "http://local:81", "http://local/x", "http://x@local", "http://local:x"],
)
def test_local_key_is_not_sent_elsewhere(state: Path, url: str) -> None:
    _local_stack(state)
    with pytest.raises(SecateurError, match="no API key"):
        find_config(url, None)


def test_nothing_known_tells_what_to_do() -> None:
    with pytest.raises(SecateurError, match="secateur up"):
        find_config(None, None)
