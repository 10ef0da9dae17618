"""The deployment files say what the service needs; a compose client, where there is one, must accept them."""

import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from app.settings import Settings

ROOT = Path(__file__).parent.parent
GPU_WORKERS = ("worker-gpu", *(f"worker-gpu-{number}" for number in range(1, 8)))
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
    parts = {
        "postgres",
        "valkey",
        "seaweedfs",
        "migrate",
        "api",
        "dispatcher",
        "webhooks",
        "worker-cpu",
        "worker-plan",
        *GPU_WORKERS,
    }
    assert set(services) == parts
    for name in ("api", "dispatcher", "webhooks", "worker-cpu", "worker-plan", *GPU_WORKERS):
        assert services[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    for name in parts - {"migrate"}:
        assert services[name]["healthcheck"]["test"], name
    assert services["worker-gpu"]["stop_grace_period"]


def test_each_gpu_has_a_worker_of_its_own(compose: dict[str, Any]) -> None:
    """By its id, so that no two get the same one; a profile of N brings exactly N."""
    workers = {name: compose["services"][name] for name in GPU_WORKERS}
    profiles = {f"gpus-{count}": count for count in (2, 4, 8)}
    for number, (name, service) in enumerate(workers.items()):
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device == {
            "driver": "nvidia", "device_ids": [f"${{SECATEUR_GPU_{number}:-{number}}}"], "capabilities": ["gpu"],
        }, name  # fmt: skip
        assert service["environment"]["SECATEUR_DEVICE"] == "cuda"
        assert service["build"]["target"] == "worker-gpu"
        assert set(service.get("profiles", profiles)) <= set(profiles)
    for profile, count in profiles.items():
        assert sum(profile in service.get("profiles", profiles) for service in workers.values()) == count


def test_the_broker_keeps_what_it_is_told(compose: dict[str, Any]) -> None:
    command = " ".join(compose["services"]["valkey"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command


def test_what_is_written_has_a_place_on_a_disk(compose: dict[str, Any]) -> None:
    for name in ("api", "worker-cpu", "worker-plan", *GPU_WORKERS):
        service = compose["services"][name]
        places = {volume.split(":")[1]: volume.split(":")[0] for volume in service["volumes"]}
        assert service["read_only"]
        assert places[service["environment"]["SECATEUR_WORK_DIR"]] in compose["volumes"], name


def test_no_secret_is_written_down() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for name in SECRETS:
        assert re.search(rf"\$\{{{name}:\?", text), f"{name} must be demanded from the environment"


def test_the_parts_agree_on_names_places_and_settings(compose: dict[str, Any]) -> None:
    """What a compose client would find out, and more: each name that is used is defined, each setting exists."""
    services, targets = compose["services"], set(re.findall(r"^FROM .* AS (\S+)", _dockerfile(), re.M))
    for name, service in services.items():
        assert ("image" in service) != ("build" in service), name
        assert service.get("build", {}).get("target") in {None, *targets}, name
        for needed, rule in service.get("depends_on", {}).items():
            healthy = rule["condition"] == "service_healthy"
            assert not healthy or services[needed]["healthcheck"]["test"], f"{name} waits for {needed}"
        for volume in service.get("volumes", ()):
            source = volume.rpartition(":")[0] if volume.startswith("$") else volume.split(":")[0]
            assert source.startswith("${SECATEUR_MODELS:-") or source in compose["volumes"], volume
        given = [key for key in service.get("environment", {}) if key.startswith("SECATEUR_")]
        assert {key.removeprefix("SECATEUR_").lower() for key in given} <= set(Settings.model_fields), name
    ours = [service for service in services.values() if "build" in service]
    assert len(ours) == 6 + len(GPU_WORKERS)
    for service in ours:
        environment = service["environment"]
        assert "@postgres:5432/" in environment["SECATEUR_DATABASE_URL"]
        assert "@valkey:6379/" in environment["SECATEUR_BROKER_URL"]
        assert environment["SECATEUR_S3_ENDPOINT"] == "http://seaweedfs:8333"
    for name in ("dispatcher", "webhooks"):
        assert "SECATEUR_HEALTH_DIR" in services[name]["environment"], "its health check reads there"


@pytest.mark.skipif(compose_client() is None, reason="there is no compose client here")
def test_a_compose_client_accepts_the_file(compose: dict[str, Any]) -> None:
    environment = os.environ | dict.fromkeys(SECRETS, "x" * 32)
    command = [*(compose_client() or ()), "-f", str(ROOT / "docker-compose.yml"), "config", "--services"]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert set(answer.stdout.split()) == set(compose["services"])


def test_images_run_unprivileged_and_the_api_has_no_torch() -> None:
    stages = re.split(r"^FROM ", _dockerfile(), flags=re.M)[1:]
    by_name = {re.search(r" AS (\S+)", stage)[1]: stage for stage in stages}  # type: ignore[index]
    assert "USER 10001" in by_name["runtime"]
    assert by_name["api"].startswith("runtime ")
    assert by_name["runtime-worker"].startswith("runtime ")
    assert "torch" not in by_name["build-api"]
    assert "'.[server,tracing]'" in by_name["build-api"]


def test_the_image_without_a_gpu_has_no_cuda(compose: dict[str, Any]) -> None:
    stages = re.split(r"^FROM ", _dockerfile(), flags=re.M)[1:]
    by_name = {re.search(r" AS (\S+)", stage)[1]: stage for stage in stages}  # type: ignore[index]
    for kind in ("cpu", "gpu"):
        assert by_name[f"worker-{kind}"].startswith("runtime-worker ")
        assert f"--from=build-worker-{kind} " in by_name[f"worker-{kind}"]
    cpu, gpu = by_name["build-worker-cpu"], by_name["build-worker-gpu"]
    # torch's own index says which build it is; with dependencies it would be asked for all others.
    assert re.search(r"pip install --no-deps --index-url \$\{TORCH_CPU_INDEX\} torch==", cpu)
    assert "constraints-gpu" not in cpu
    assert gpu.count("--constraint deploy/constraints-gpu.txt") == gpu.count("pip install") == 2
    targets = {
        name: service["build"]["target"] for name, service in compose["services"].items() if "build" in service
    }
    assert {targets[name] for name in ("worker-cpu", "worker-plan")} == {"worker-cpu"}
    assert set(re.findall(r"torch==(\S+)", _dockerfile())) == {_pins("constraints.txt")["torch"]}


def _pins(name: str) -> dict[str, str]:
    """Each package's version."""
    lines = [line for line in (ROOT / "deploy" / name).read_text().splitlines() if line[:1] != "#"]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines)
    pinned = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    assert len(pinned) == len(lines), "each is there once"
    return pinned


def test_cuda_is_pinned_with_torch() -> None:
    pinned = _pins("constraints-gpu.txt")
    assert not set(pinned) & set(_pins("constraints.txt"))
    assert all(name == "triton" or name.startswith(("nvidia-", "cuda-")) for name in pinned)
    assert {"triton", "cuda-toolkit", "nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-nccl-cu13"} <= set(pinned)
    major = pinned["cuda-toolkit"].partition(".")[0]
    assert all(name.endswith(f"-cu{major}") for name in pinned if "-cu1" in name)
    operations = (ROOT / "docs" / "operations.md").read_text()
    assert f"CUDA {major}" in operations
    assert "driver 580" in operations


def test_every_installed_version_is_pinned() -> None:
    pinned = _pins("constraints.txt") | _pins("constraints-gpu.txt")
    installed = {canonicalize_name(found.name): found.version for found in _closure()}
    assert {"torch", "setuptools", "fastapi", "httpcore", "pytest"} <= set(installed)
    # A build of torch for one kind of device is the same version.
    public = {name: version.partition("+")[0] for name, version in installed.items()}
    assert {name: pinned.get(name) for name in public} == public


def _closure() -> Iterator[Distribution]:
    """What is installed of all that the project asks for with all its extras, directly or not."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for group in project["optional-dependencies"].values() for line in group]
    asked = map(Requirement, [*project["dependencies"], *extras])
    waiting = [requirement for requirement in asked if requirement.name != "secateur"]
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement = waiting.pop()
        try:
            found = distribution(requirement.name)
        except PackageNotFoundError:
            continue  # an extra, or a part for another machine, that is not here
        for extra in ("", *requirement.extras):
            if (key := (canonicalize_name(found.name), extra)) in seen:
                continue
            seen.add(key)
            if not extra:
                yield found
            needed = [Requirement(line) for line in found.requires or ()]
            waiting += [each for each in needed if each.marker is None or each.marker.evaluate({"extra": extra})]


def _dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text()


def test_the_bucket_rule_takes_broken_off_uploads_alone() -> None:
    rules = json.loads((ROOT / "deploy" / "s3-lifecycle.json").read_text())["Rules"]
    actions = [set(rule) - {"ID", "Status", "Filter"} for rule in rules]
    assert actions == [{"AbortIncompleteMultipartUpload"}]
    assert rules[0]["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] >= 1
    assert "deploy/s3-lifecycle.json" in (ROOT / "docs" / "operations.md").read_text()
