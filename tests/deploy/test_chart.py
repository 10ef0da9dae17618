"""The chart renders, Kubernetes' schemas take what it makes, and it agrees with the code that it starts."""

import importlib.util
import json
import re
from functools import cache
from typing import Any

import pytest
import yaml
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.delivery.claim import claim
from app.settings import Settings, get_settings
from app.tables.accounts import ProjectAccount
from app.tables.states import State
from app.workers import registry
from tests.deploy.kubernetes import CHART, ROOT, check, objects, render
from tests.jobs import make_jobs
from tests.machines import GIB, gpu

VALUES = ("small", "keda", "full")
SETTINGS = {f"SECATEUR_{name.upper()}" for name in Settings.model_fields}
OTHERS = {"REMAP_SIGTERM", "NVIDIA_DRIVER_CAPABILITIES"}
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())

rendered = cache(objects)


def pods(things: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each pod's template by the part it is of."""
    found = {}
    for thing in things:
        spec = thing.get("spec", {})
        template = spec.get("template") or spec.get("jobTargetRef", {}).get("template")
        if template:
            found[template["metadata"]["labels"]["app.kubernetes.io/component"]] = template
    return found


def of_kind(things: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [thing for thing in things if thing["kind"] == kind]


def settings_of(things: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The release's, and the migration's."""
    found = [each for each in of_kind(things, "ConfigMap") if each["metadata"]["name"].endswith("-settings")]
    return sorted(found, key=lambda each: "annotations" in each["metadata"])


@pytest.mark.parametrize("values", VALUES)
def test_kubernetes_takes_every_object(values: str) -> None:
    things = rendered(values)
    for thing in things:
        check(thing)
    names = [(thing["kind"], thing["metadata"]["name"]) for thing in things]
    assert len(names) == len(set(names))
    assert set(pods(things)) == {
        *("api", "dispatcher", "webhooks", "migrate", "worker-cpu", "worker-plan", "worker-gpu")
    }


@pytest.mark.parametrize("values", VALUES)
def test_no_pod_has_a_privilege(values: str) -> None:
    for template in pods(rendered(values)).values():
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is security["privileged"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert {"requests", "limits"} <= set(container["resources"])
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted == {volume["name"] for volume in spec["volumes"]}


@pytest.mark.parametrize("values", VALUES)
def test_settings_commands_and_ports_are_the_code_s(values: str) -> None:
    things = rendered(values)
    settings, of_migration = settings_of(things)
    assert of_migration["data"] == settings["data"]
    assert {name for name in settings["data"] if not name.startswith("OTEL_")} <= SETTINGS
    assert settings["data"]["SECATEUR_METRICS_LISTEN"].endswith(":9464")
    for part, template in pods(things).items():
        (container,) = template["spec"]["containers"]
        assert {each["name"] for each in container.get("env", ())} <= SETTINGS | OTHERS
        command = container["command"]
        if command[0] == "python":
            assert importlib.util.find_spec(command[2]), command
        else:
            assert command[:4] == ["celery", "-A", "worker.celery", "worker"]
        probe = container.get("livenessProbe", {}).get("exec", {}).get("command", [])
        assert probe[:1] != ["python"] or importlib.util.find_spec(probe[2])
        ours = {"migrate": "migrate", "worker-gpu": "worker-gpu"}.get(part, part)
        if "-m" not in command or "worker.once" not in command:
            of_compose = COMPOSE["services"][ours]["command"]
            assert [str(each) for each in of_compose] == command, "compose starts the same"
    api = pods(things)["api"]["spec"]["containers"][0]
    assert [port["containerPort"] for port in api["ports"]] == [int(api["command"][-1]), 9464]
    assert (api["livenessProbe"]["httpGet"]["path"], api["readinessProbe"]["httpGet"]["path"]) == (
        "/livez",
        "/readyz",
    )
    stop = Settings.model_fields["stop_seconds"].default
    assert pods(things)["api"]["spec"]["terminationGracePeriodSeconds"] > stop + 5


def test_every_pod_is_found_by_its_selectors() -> None:
    things = rendered("full")
    labels = [template["metadata"]["labels"] for template in pods(things).values()]
    for thing in things:
        selectors = [thing["spec"].get(key) for key in ("selector", "podSelector") if "spec" in thing]
        for selector in filter(None, selectors):
            wanted = selector.get("matchLabels", selector)
            assert any(wanted.items() <= each.items() for each in labels), thing["metadata"]["name"]
    (scaler,) = of_kind(things, "HorizontalPodAutoscaler")
    targets = {each["metadata"]["name"] for each in of_kind(things, "Deployment")}
    assert scaler["spec"]["scaleTargetRef"]["name"] in targets
    assert of_kind(things, "PodDisruptionBudget")
    assert not [
        each
        for each in of_kind(things, "Deployment")
        if "api" in each["metadata"]["name"] and "replicas" in each["spec"]
    ]


def test_the_migration_is_over_before_anything_starts() -> None:
    """And what it needs is there before it. No other part needs a hook: a rollback runs none."""
    weights, hooks = {}, set()
    for thing in rendered("keda"):
        notes = thing["metadata"].get("annotations", {})
        if "helm.sh/hook" in notes:
            assert notes["helm.sh/hook"] == "pre-install,pre-upgrade"
            assert "hook-succeeded" in notes["helm.sh/hook-delete-policy"]
            weights[thing["kind"]] = int(notes["helm.sh/hook-weight"])
            hooks.add(thing["metadata"]["name"])
    assert set(weights) == {"Job", "ConfigMap", "ServiceAccount", "NetworkPolicy"}
    assert all(weights["Job"] > weight for kind, weight in weights.items() if kind != "Job")
    for part, template in pods(rendered("keda")).items():
        spec = template["spec"]
        used = {spec["serviceAccountName"], spec["containers"][0]["envFrom"][1]["configMapRef"]["name"]}
        assert used <= hooks if part == "migrate" else not used & hooks


def test_a_pod_is_not_restarted_for_a_backend_s_outage() -> None:
    """Liveness asks nothing but the process itself; only celery's own commands go over the broker."""
    for template in pods(rendered("full")).values():
        assert "celery" not in str(template["spec"]["containers"][0].get("livenessProbe"))


def test_numbers_reach_the_settings_as_they_are() -> None:
    (settings, _) = settings_of(rendered("full"))
    given = {name.removeprefix("SECATEUR_").lower(): value for name, value in settings["data"].items()}
    needed = {
        "database_url": "postgresql+psycopg://h/n",
        "broker_url": "redis://h:6379/0",
        "secret": "s" * 32,
    }
    read = Settings.model_validate(needed | given)
    assert (read.engine_memory_bytes, read.lease_seconds, read.store_retry_seconds) == (2**32, 90, 0.5)
    assert read.dashboard is False


@pytest.mark.parametrize(
    ("values", "given", "port"),
    [
        ("small", [], 9000),
        ("keda", [], 443),
        ("full", [], 443),
        ("small", ["--set", "store.s3Endpoint=http://s3.internal"], 80),
        ("small", ["--set", "store.s3Endpoint=https://s3.internal/"], 443),
    ],
)
def test_whoever_uses_the_store_reaches_it(values: str, given: list[str], port: int) -> None:
    peers = ["--set", "networkPolicy.storeTo[0].ipBlock.cidr=10.0.0.0/8"]
    things = objects(values, "--set", "networkPolicy.enabled=true", *given, *peers)
    policies = {each["metadata"]["name"]: each["spec"]["egress"] for each in of_kind(things, "NetworkPolicy")}
    rule = {"ports": [{"protocol": "TCP", "port": port}], "to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}
    found = {name.removeprefix("it-") for name, egress in policies.items() if rule in egress}
    assert found == {"api", "worker-cpu", "worker-plan", "worker-gpu"}, "the other parts open no store"


def test_logs_and_traces_go_where_the_values_say() -> None:
    (data, usual) = (settings_of(rendered(values))[0]["data"] for values in ("full", "keda"))
    assert (data["SECATEUR_LOG_FORMAT"], usual["SECATEUR_LOG_FORMAT"]) == ("text", "json")
    told = {name: value for name, value in data.items() if name.startswith("OTEL_")}
    assert told == {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.monitoring:4318",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.1",
    }
    assert not [name for name in usual if name.startswith("OTEL_")]
    policies = {
        each["metadata"]["name"]: each["spec"]["egress"] for each in of_kind(rendered("full"), "NetworkPolicy")
    }
    peers = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    rule = {"ports": [{"protocol": "TCP", "port": 4318}], "to": peers}
    assert {name for name, egress in policies.items() if rule not in egress} == {"it-migrate"}


def test_an_engine_s_pod_reaches_only_its_backends() -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in of_kind(rendered("keda"), "NetworkPolicy")}
    assert len(policies) == 7
    for part in ("worker-gpu", "worker-plan"):
        policy = policies[f"it-{part}"]
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        assert policy["ingress"] == []
        assert not [peer for rule in policy["egress"] for peer in rule.get("to", ()) if "0.0.0.0/0" in str(peer)]
    assert any("0.0.0.0/0" in str(rule) for rule in policies["it-worker-cpu"]["egress"])
    assert not of_kind(rendered("small"), "NetworkPolicy")


def test_a_pod_of_a_scaled_job_is_taken_away_by_nobody() -> None:
    (scaled,) = of_kind(rendered("keda"), "ScaledJob")
    spec = scaled["spec"]
    assert spec["rollout"]["strategy"] == "gradual", "an upgrade would end the pods of the release before"
    assert spec["scalingStrategy"]["strategy"] == "accurate", "running jobs are not among those counted"
    template = spec["jobTargetRef"]["template"]["spec"]
    assert template["restartPolicy"] == "Never"
    assert spec["jobTargetRef"]["backoffLimit"] == 0
    (container,) = template["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    authentication = of_kind(rendered("keda"), "TriggerAuthentication")[0]
    assert spec["triggers"][0]["authenticationRef"]["name"] == authentication["metadata"]["name"]


def query_of(*given: str) -> str:
    (scaled,) = of_kind(objects("keda", *given), "ScaledJob")
    query: str = scaled["spec"]["triggers"][0]["metadata"]["query"]
    return query


def claimed(session: Session) -> int:
    """So many jobs a worker gets, if none ends."""
    count = 0
    with session.begin_nested() as trial:
        while claim(session, "w", 60):
            count += 1
        trial.rollback()
    session.expire_all()
    return count


def test_jobs_are_counted_as_the_claim_takes_them(session: Session) -> None:
    """A worker with the memory that the values say takes exactly as many as pods are started."""
    query = query_of()
    registry.register(session, "w", gpu(80e9 / GIB, 64e9 / GIB))
    maker = make_jobs(session)
    ids = [maker.make() for _ in range(6)]

    def counted() -> tuple[int, int]:
        return session.scalars(text(query)).one(), claimed(session)

    assert counted() == (6, 6)
    changes = (
        f"state = '{State.paused}'",
        f"state = '{State.running}'",
        "available_at = now() + interval '1 hour'",
        "estimate_due_at = now() + interval '1 hour'",
    )
    for left, (id, change) in enumerate(zip(ids, changes, strict=False)):
        session.execute(text(f"UPDATE jobs SET {change} WHERE id = :id"), {"id": id})  # noqa: S608
        assert counted() == (5 - left, 5 - left), change
    session.execute(text("UPDATE datasets SET state = 'pending'"))
    assert counted() == (0, 0)
    session.execute(text("UPDATE datasets SET state = 'ready'"))
    session.execute(text("UPDATE models SET state = 'pending'"))
    assert counted() == (0, 0)
    session.execute(text("UPDATE models SET state = 'ready'"))
    for change in ("needs_device_bytes = 81 * 10^9", "needs_host_bytes = 65 * 10^9"):
        session.execute(text(f"UPDATE jobs SET {change} WHERE id = :id"), {"id": ids[-1]})  # noqa: S608
        assert counted() == (1, 1), change
        session.execute(text("UPDATE jobs SET needs_device_bytes = NULL, needs_host_bytes = NULL"))


def test_no_pod_is_started_for_what_a_project_may_not_run(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own quota before the setting's, and less what it runs."""
    query = query_of("--set", "settings.SECATEUR_QUOTA_RUNNING_JOBS=2")
    monkeypatch.setenv("SECATEUR_QUOTA_RUNNING_JOBS", "2")
    get_settings.cache_clear()
    own, free, usual = (make_jobs(session, name=name) for name in ("own", "free", "usual"))
    for maker in (own, free, usual):
        for _ in range(4):
            maker.make()

    def counted() -> tuple[int, int]:
        return session.scalars(text(query)).one(), claimed(session)

    assert counted() == (6, 6)
    session.add(ProjectAccount(project_id=own.project, quotas={"running_jobs": 1}))
    session.add(ProjectAccount(project_id=free.project, quotas={"running_jobs": None}))
    session.flush()
    assert counted() == (1 + 4 + 2, 1 + 4 + 2)
    for left in (6, 5, 4, 3, 2, 1, 0):
        assert claim(session, "w", 60)
        assert counted() == (left, left)
    session.get_one(ProjectAccount, free.project).quotas = {"running_jobs": 1}
    session.flush()
    assert counted() == (0, 0), "it runs more than it may"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "existingSecret"),
        (["--set", "existingSecret=s"], "store/url"),
        (["--set", "existingSecret=s,store.url=s3://b"], "workerGpu.kedaSecret.name"),
        (["--set", "existingSecret=s,store.url=s3://b,apii.replicas=2"], "apii"),
        (["--set", "existingSecret=s,store.url=file:///data"], "store/url"),
        (["--set", "existingSecret=s,store.url=s3://b,settings.LEASE=1"], "LEASE"),
        (["--set", "existingSecret=s,store.url=s3://b,workerGpu.resources.limits=null"], "property 'limits'"),
        (["--set", "existingSecret=s,store.url=s3://b,logs.format=xml"], "logs/format"),
        (["--set", "existingSecret=s,store.url=s3://b,tracing.endpoint=collector:4318"], "tracing/endpoint"),
        (["--set", "existingSecret=s,store.url=s3://b,tracing.environment.HEADERS=x"], "HEADERS"),
        (["--set", "existingSecret=s,store.url=s3://b,workerCpu.work=null"], "property 'work'"),
        (["--set", "existingSecret=s,store.url=s3://b,api=null"], "property 'api'"),
    ],
)
def test_wrong_values_are_refused_by_name(given: list[str], said: str) -> None:
    answer = render(*given)
    assert answer.returncode != 0
    assert said in answer.stderr


def test_monitoring_is_the_files_that_are_tested() -> None:
    (rule,) = of_kind(rendered("full"), "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((CHART / "monitoring" / "alerts.yml").read_text())
    (dashboard,) = [
        each for each in of_kind(rendered("full"), "ConfigMap") if "dashboard" in each["metadata"]["name"]
    ]
    assert json.loads(dashboard["data"]["secateur.json"]) == json.loads(
        (CHART / "monitoring" / "dashboard.json").read_text()
    )
    assert not of_kind(rendered("small"), "PodMonitor")


def test_every_value_is_known_to_the_schema_and_documented() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(values) == set(schema["properties"]) - {"global"}
    used = set(
        re.findall(r"\.Values\.(\w+)", "".join(path.read_text() for path in (CHART / "templates").iterdir()))
    )
    assert used <= set(values)
    assert set(values) - used <= {"dispatcher", "webhooks"}, "which are read by their names"
    assert (
        f'version = "{yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]}"'
        in (ROOT / "pyproject.toml").read_text()
    )


def test_no_value_that_a_template_reads_can_be_taken_away() -> None:
    """`null` takes a value of the chart's away. Disruption budgets have one of two."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def look(schema: dict[str, Any], given: dict[str, Any], where: str) -> None:
        if schema.get("additionalProperties") is not False or where.endswith("disruptionBudget"):
            return
        assert set(schema["required"]) == set(given), where
        for name, value in given.items():
            if isinstance(value, dict):
                look(schema["properties"][name], value, f"{where}.{name}")

    look(json.loads((CHART / "values.schema.json").read_text()), values, "")
