"""Alerts and dashboard: well-formed, about metrics that exist, each alert explained to whoever it wakes."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from app.db.engine import get_engine
from app.kit.calls import CALLS
from app.metrics.database import DatabaseMetrics
from app.settings import Settings

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "helm" / "secateur" / "monitoring"
ALERTS: list[dict[str, Any]] = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"][0]["rules"]
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
EXPRESSIONS = [
    *(rule["expr"] for rule in ALERTS),
    *(target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]),
]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
TESTED = Path(__file__).parent / "alerts_test.yml"

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="there is no promtool here: it is in Debian's package `prometheus`"
)


def promtool(*arguments: str, at: Path) -> None:
    ended = subprocess.run(["promtool", *arguments], cwd=at, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@needs_promtool
def test_alerts_fire_for_what_they_are_about(tmp_path: Path) -> None:
    for path in (MONITORING / "alerts.yml", TESTED):
        shutil.copy(path, tmp_path)
    promtool("check", "rules", "alerts.yml", at=tmp_path)
    promtool("test", "rules", "alerts_test.yml", at=tmp_path)


@needs_promtool
def test_every_panel_s_expressions_are_read(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": each} for number, each in enumerate(EXPRESSIONS)]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", "panels.yml", at=tmp_path)


def test_every_alert_is_seen_to_fire() -> None:
    fired = set(re.findall(r'alertname="(\w+)"', TESTED.read_text()))
    assert fired == {rule["alert"] for rule in ALERTS}


def test_every_alert_has_its_paragraph() -> None:
    section = OPERATIONS.split("\n## Alerts\n")[1].split("\n## ")[0]
    assert re.findall(r"^### (\w+)$", section, re.M) == [rule["alert"] for rule in ALERTS]
    for rule in ALERTS:
        assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    paragraphs = re.split(r"^### \w+$", section, flags=re.M)[1:]
    assert all(len(each.split()) > 15 for each in paragraphs)


@pytest.fixture
def shown(settings: Settings) -> dict[str, set[str]]:
    """Every metric that the service's processes show, with its labels."""
    made = CollectorRegistry()
    collectors: list[Collector] = [*CALLS, DatabaseMetrics(settings, get_engine(), lambda: True)]
    for each in collectors:
        made.register(each)
    found: dict[str, set[str]] = {}
    for family in made.collect():
        labels = set(getattr(family, "_labelnames", ()))
        ends = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        found |= {family.name + end: labels | ({"le"} if end == "_bucket" else set()) for end in ends}
    for call in CALLS:
        for name in found:
            if re.fullmatch(rf"{call._name}(_total|_bucket|_sum|_count)", name):
                found[name] |= set(call._labelnames)
    return found


def test_rules_and_dashboard_are_about_metrics_that_exist(shown: dict[str, set[str]]) -> None:
    for expression in EXPRESSIONS:
        names = re.findall(r"\bsecateur_\w+", expression)
        assert names, expression
        assert set(names) <= set(shown), expression
        for name, selector in re.findall(r"\b(secateur_\w+)\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)\s*[!=]", selector)) <= shown[name], expression
        kept = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", expression))))
        assert kept <= set().union(*(shown[name] for name in names)), expression


def test_every_metric_is_documented(shown: dict[str, set[str]]) -> None:
    families = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in shown}
    documented = set(re.findall(r"`(secateur_\w+?)(?:_total)?(?:\{[^`]*\})?`", OPERATIONS))
    assert families <= documented
    assert documented <= families


def test_panels_do_not_lie_on_one_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
