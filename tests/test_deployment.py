"""The deployment files say what the service needs; a compose client, where there is one, must accept them."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
SECRETS = ("POSTGRES_PASSWORD", "VALKEY_PASSWORD", "S3_SECRET_KEY", "SECATEUR_SECRET")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """docker-compose.yml, read as YAML."""
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def compose_client() -> list[str] | None:
    """The compose plugin of docker, or the older program of its own."""
    for client in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(client[0]) and not subprocess.run([*client, "version"], capture_output=True).returncode:
            return client
    return None


def test_every_part_is_there_and_waits_for_what_it_needs(compose: dict[str, Any]) -> None:
    services = compose["services"]
    parts = {"postgres", "valkey", "seaweedfs", "migrate", "api", "dispatcher", "worker-cpu", "worker-gpu"}
    assert set(services) == parts
    for name in ("api", "dispatcher", "worker-cpu", "worker-gpu"):
        assert services[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    for name in parts - {"migrate"}:
        assert services[name]["healthcheck"]["test"], name
    assert services["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert services["worker-gpu"]["stop_grace_period"]


def test_the_broker_keeps_what_it_is_told(compose: dict[str, Any]) -> None:
    command = " ".join(compose["services"]["valkey"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command


def test_what_is_written_has_a_place_on_a_disk(compose: dict[str, Any]) -> None:
    for name in ("api", "worker-cpu", "worker-gpu"):
        service = compose["services"][name]
        places = {volume.split(":")[1]: volume.split(":")[0] for volume in service["volumes"]}
        assert service["read_only"]
        assert places[service["environment"]["SECATEUR_WORK_DIR"]] in compose["volumes"], name


def test_no_secret_is_written_down() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for name in SECRETS:
        assert re.search(rf"\$\{{{name}:\?", text), f"{name} must be demanded from the environment"


def test_a_compose_client_accepts_the_file(compose: dict[str, Any]) -> None:
    """Without a client the structure above is all that can be checked here."""
    client = compose_client()
    services = set(compose["services"])
    if client is not None:
        environment = os.environ | dict.fromkeys(SECRETS, "x" * 32)
        command = [*client, "-f", str(ROOT / "docker-compose.yml"), "config", "--services"]
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert set(answer.stdout.split()) == services
    assert services


def test_images_run_unprivileged_and_the_api_has_no_torch() -> None:
    stages = re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(), flags=re.M)[1:]
    by_name = {re.search(r" AS (\S+)", stage)[1]: stage for stage in stages}  # type: ignore[index]
    assert "USER 10001" in by_name["runtime"]
    assert by_name["api"].startswith("runtime ")
    assert by_name["worker"].startswith("runtime ")
    assert "torch" not in by_name["build-api"]
    assert "'.[server]'" in by_name["build-api"]


def test_every_installed_version_is_pinned() -> None:
    lines = [line for line in (ROOT / "deploy/constraints.txt").read_text().splitlines() if line[:1] != "#"]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines)
    assert "torch==2.13.0" in lines
