"""A real browser before the real service, with a project's history in it."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import httpx
import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from sqlalchemy import func
from sqlalchemy.orm import Session

from app.tables.jobs import Job
from app.ui.files import files
from tests.app.conftest import Inputs, MakeKey
from tests.app.lineage.lineages import publish
from tests.histories import evaluate, fill

CHROMIUM = os.environ.get("SECATEUR_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
SCOPES = ("jobs:read", "jobs:write", "data:read", "data:write", "keys:write", "audit:read", "admin")
PICTURES = os.environ.get("SECATEUR_TEST_PICTURES")
"""A folder where every page is drawn as it was looked at."""
THEMES: Final[tuple[Literal["light", "dark"], ...]] = ("light", "dark")
AXE: Final = Path(__file__).parents[3] / "ui" / "node_modules" / "axe-core" / "axe.min.js"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, without a window. While it is there, its driver's event loop runs in this thread, where no test of
    another module could run one of its own."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium, or SECATEUR_TEST_CHROMIUM=PATH")
    if not files():
        missing = "the dashboard is not built: make ui"
        if os.environ.get("SECATEUR_TEST_DASHBOARD") == "required":
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        # In a container Chromium's own sandbox may not start; it reads only our own pages.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Dashboard:
    """A page of the browser, and what went wrong on it."""

    page: Page
    url: str
    faults: list[str]

    def open(self, path: str) -> None:
        self.page.goto(f"{self.url}/ui{path}")
        self.settle()

    def settle(self) -> None:
        """Wait until nothing is being loaded any more."""
        self.page.wait_for_selector("h1, h2")
        self.page.wait_for_selector(".spinner", state="detached")


@pytest.fixture
def dashboard(browser: Browser, service: str) -> Iterator[Dashboard]:
    """Not signed in; whatever the browser refuses or throws fails the test."""
    context = browser.new_context(viewport={"width": 1400, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(30_000)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(f"error: {error}"))
    page.on("console", lambda said: faults.append(said.text) if _grave(said.text) else None)
    page.add_init_script(
        "document.addEventListener('securitypolicyviolation', event =>"
        " console.error(`Content Security Policy: ${event.violatedDirective} ${event.sourceFile}`))"
    )
    yield Dashboard(page, service, faults)
    context.close()
    assert faults == []


def _grave(text: str) -> bool:
    return "Content Security Policy" in text or "Trusted" in text or "Uncaught" in text


def accessibility(page: Page) -> list[str]:
    """What axe finds: the rule, and where. Axe is run beside the page, out of the reach of its policy."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE.read_text())
    result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [f"{each['id']}: {node['html'][:200]}" for each in result["violations"] for node in each["nodes"]]


def draw(page: Page, name: str) -> None:
    """Keep the page as it looks, in the folder SECATEUR_TEST_PICTURES."""
    if PICTURES is not None:
        Path(PICTURES).mkdir(parents=True, exist_ok=True)
        stem = "".join(letter if letter.isalnum() else "_" for letter in name.replace("{", "").replace("}", ""))
        page.screenshot(path=Path(PICTURES) / f"{stem}.png", full_page=True)


def looks_right(page: Page, name: str) -> None:
    """On a small and a large screen, light and dark: axe finds nothing, and nothing is wider than the screen."""
    for width in (400, 1400):
        for theme in THEMES:
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=theme, reduced_motion="reduce")
            draw(page, f"{theme}-{width}-{name}")
            found = accessibility(page)
            assert found == [], f"{name}, {theme}, {width}: {found}"
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (name, width)


@pytest.fixture
def signed_in(dashboard: Dashboard, make_key: MakeKey) -> Dashboard:
    """With a key that may do everything."""
    sign_in(dashboard, make_key(scopes=SCOPES))
    return dashboard


def sign_in(dashboard: Dashboard, key: str) -> None:
    dashboard.open("/")
    dashboard.page.get_by_label("API key").fill(key)
    dashboard.page.get_by_role("button", name="Sign in").click()
    dashboard.page.get_by_role("heading", name="Jobs", exact=True).wait_for()


@dataclass(frozen=True)
class History:
    """Ids of jobs as a worker leaves them."""

    done: str
    continued: str
    other: str
    failed: str
    running: str
    queued: str
    webhook: str
    """Of a webhook; deliveries to it wait."""


@pytest.fixture
def history(api: httpx.Client, inputs: Inputs, session: Session) -> History:
    """A finished lineage of two jobs, another job of it, a failed, a running and a queued one; a webhook."""

    def submit(**changes: Any) -> str:
        answer = api.post("/v1/jobs", json=inputs.body(**changes))
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def finish(job: str, perplexity: float, sparsity: float) -> None:
        warning = {"code": "calibration_is_short", "message": "The calibration text of law has 3,072 tokens only."}
        publish(session, job)
        row = session.get_one(Job, job, populate_existing=True)
        row.result = {
            **(row.result or {}),
            "mean_perplexity": perplexity,
            "dense_mean_perplexity": 21.3,
            "bwt": 0.71,
            "log_bwt": 0.03,
            "sparsity": sparsity,
            "warnings": [warning],
        }
        row.runtime_seconds = 1843.0
        session.commit()

    body = {
        "url": "https://ci.example.com/secateur",
        "events": ["created", "transition"],
        "labels": {"team": "search"},
    }
    webhook = str(api.post("/v1/webhooks", json=body).json()["id"])
    done = submit(labels={"team": "search"})
    for stage, domain in enumerate(("law", "code")):
        changed = {
            f"model.layers.{block}.{name}.weight": {
                "sparsity": 0.5 + 0.03 * (block - 1),
                "relative_error": 0.04 + 0.02 * block,
                "held_out_error": 0.05 + 0.025 * block,
            }
            for block in range(3)
            for name in ("down_proj", "q_proj")
        }
        fill(session, done, stage, domain=domain, scale=1 + stage, changed=changed)
    evaluate(
        session,
        done,
        {0: {"law": 18.2, "code": 24.4}, 1: {"law": 21.9, "code": 40.3}, 2: {"law": 22.6, "code": 27.7}},
    )
    finish(done, 25.2, 0.5)
    other = submit(method={"name": "wanda"}, sparsity={"target": 0.6})
    for stage, domain in enumerate(("law", "code")):
        fill(session, other, stage, domain=domain)
    evaluate(
        session,
        other,
        {0: {"law": 18.2, "code": 24.4}, 1: {"law": 31.9, "code": 52.3}, 2: {"law": 33.6, "code": 37.7}},
    )
    finish(other, 35.7, 0.6)
    domain = {"name": "medicine", "dataset": inputs.first, "evaluation": inputs.second}
    answer = api.post("/v1/jobs", json={"continues": done, "domains": [domain]})
    continued = str(answer.json()["id"]) if answer.status_code == 201 else done
    failed = submit()
    running = submit(method={"name": "admm"}, labels={"team": "search"})
    queued = submit(priority=3)
    session.rollback()
    row = session.get_one(Job, failed)
    row.failure = {
        "code": "out_of_memory",
        "message": "The engine needed more memory than its worker has.",
        "cause": "system",
    }
    row.state, row.started_at, row.finished_at = "failed", func.now(), func.now()
    row = session.get_one(Job, running)
    row.state, row.phase, row.started_at = "running", "pruning", func.now()
    session.commit()
    fill(session, running, 0, domain="law", done=False)
    return History(done, continued, other, failed, running, queued, webhook)
