"""The form of a job in a real Chromium: what it sends, and where it says what was refused.

Slow: only a browser fills in a form.
"""

from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from secateur.spec.job import Output
from secateur.spec.sparsity import Override
from secateur.spec.tasks import HarnessTask
from tests.app.ui.conftest import Dashboard, looks_right

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.usefixtures("history")]


def begin(page: Page, method: str) -> None:
    domain = page.get_by_role("group", name="Domain 1")
    domain.get_by_label("Name").fill("law")
    domain.get_by_label("Calibration text").select_option(index=1)
    page.get_by_label("Method", exact=True).select_option(method)


def override(page: Page, number: int) -> Locator:
    return page.get_by_role("group", name=f"Override {number}")


def test_a_job_is_submitted_and_what_is_refused_is_said_at_its_field(signed_in: Dashboard, api: Any) -> None:
    page = signed_in.page
    signed_in.open("/new")
    begin(page, "wanda")
    page.get_by_label("Sparsity target").fill("1.5")
    page.get_by_role("button", name="Submit").click()
    page.locator(".field", has_text="Sparsity target").locator(".fault").wait_for()
    page.get_by_label("Sparsity target").fill("0.25")
    page.get_by_label("Further targets").fill("0.5, half")
    page.get_by_role("button", name="Submit").click()
    page.locator(".field", has_text="Further targets").locator(".fault").wait_for()
    page.get_by_label("Further targets").fill("0.5, 2:4")
    page.get_by_role("button", name="Submit").click()
    page.get_by_role("heading", name="wanda on tiny").wait_for()
    job = api.get("/v1/jobs", params={"limit": 1}).json()["data"][0]
    assert page.url.endswith(job["id"])
    sparsity = job["spec"]["sparsity"]
    assert (job["method"], sparsity["target"], sparsity["further"]) == ("wanda", 0.25, [0.5, "2:4"])


def test_overrides_go_in_their_order_with_numerics_and_output(signed_in: Dashboard, api: Any) -> None:
    page = signed_in.page
    signed_in.open("/new")
    begin(page, "copal")
    add = page.get_by_role("button", name="Add an override")
    add.click()
    expect(override(page, 1).get_by_label("match")).to_be_focused()
    page.keyboard.type("*.0.*")
    override(page, 1).get_by_label("skip").select_option("true")
    add.click()
    override(page, 2).get_by_label("regex").fill(r".*q_proj\.weight")
    override(page, 2).get_by_label("target").fill("0.3")
    override(page, 2).get_by_label("method").select_option("wanda")
    override(page, 2).get_by_role("button", name="Up").focus()
    page.keyboard.press("Enter")
    expect(page.locator(":focus")).to_have_text("Down: override 1")  # it went with what was moved
    add.click()
    override(page, 3).get_by_role("button", name="Remove").click()
    for title in ("Calibration", "Evaluation", "Output", "Numerics"):
        page.locator("summary", has_text=title).click()
    page.get_by_label("samples").fill("8")
    page.get_by_label("max_windows").fill("4")
    page.get_by_label("keep_stages").select_option("true")
    page.get_by_label("numerics").select_option("exact")
    looks_right(page, "new-filled")
    page.get_by_role("button", name="Submit").click()
    page.get_by_role("heading", name="copal on tiny").wait_for()
    spec = api.get("/v1/jobs", params={"limit": 1}).json()["data"][0]["spec"]
    assert spec["sparsity"]["overrides"] == [
        {"regex": r".*q_proj\.weight", "target": 0.3, "method": "wanda"},
        {"match": "*.0.*", "skip": True},
    ]
    assert (spec["numerics"], spec["output"]["keep_stages"]) == ("exact", True)
    assert (spec["domains"][0]["calibration"]["samples"], spec["evaluation"]["max_windows"]) == (8, 4)


def test_tasks_are_asked_and_what_is_wrong_with_one_is_said_at_it(signed_in: Dashboard, api: Any) -> None:
    page = signed_in.page
    signed_in.open("/new")
    begin(page, "wanda")
    add = page.get_by_role("button", name="Add a task")
    first, second = (page.get_by_role("group", name=f"Task {number}") for number in (1, 2))
    add.click()
    expect(first.get_by_label("Name")).to_be_focused()
    page.keyboard.type("arc easy")
    add.click()
    second.get_by_label("Name").fill("capitals")
    second.get_by_label("Questions").select_option(index=1)
    second.get_by_label("few_shot").fill("1")
    shown = second.locator(".field > label").all_text_contents()
    assert [name.lower().replace("questions", "dataset") for name in shown] == list(HarnessTask.model_fields)
    page.get_by_role("button", name="Submit").click()
    first.locator(".field", has_text="Name").locator(".fault").wait_for()
    looks_right(page, "new-tasks")
    first.get_by_role("button", name="Remove").click()
    expect(page.locator(".fault")).to_have_count(0)
    expect(add).to_be_focused()
    page.get_by_role("button", name="Submit").click()
    questions = first.locator(".field", has_text="Questions")
    questions.locator(".fault").wait_for()  # a plain text asks nothing
    questions.get_by_label("Questions").select_option("")
    page.get_by_role("button", name="Submit").click()
    page.get_by_role("heading", name="wanda on tiny").wait_for()
    [task] = api.get("/v1/jobs", params={"limit": 1}).json()["data"][0]["spec"]["tasks"]
    assert task == {"name": "capitals", "dataset": None, "few_shot": 1, "limit": None}


def test_every_field_that_the_service_describes_is_there(signed_in: Dashboard) -> None:
    page = signed_in.page
    signed_in.open("/new")
    page.get_by_role("button", name="Add an override").click()
    shown = override(page, 1).locator(".field > label").all_text_contents()
    assert shown == list(Override.model_fields)
    output = page.locator("details", has=page.locator("summary", has_text="Output"))
    assert output.locator(".field > label").all_text_contents() == list(Output.model_fields)


def test_what_is_wrong_with_an_override_is_said_at_it(signed_in: Dashboard) -> None:
    page = signed_in.page
    signed_in.open("/new")
    begin(page, "wanda")
    page.get_by_role("button", name="Add an override").click()
    override(page, 1).get_by_label("target").fill("0.3")
    page.get_by_role("button", name="Submit").click()
    override(page, 1).locator(".fault", has_text="needs exactly one of").wait_for()
    override(page, 1).get_by_label("match").fill("*")
    override(page, 1).get_by_label("pattern").fill("4:2")
    page.get_by_role("button", name="Submit").click()
    override(page, 1).locator(".field", has_text="pattern").locator(".fault", has_text="n:m").first.wait_for()
    page.get_by_role("button", name="Add an override").click()
    override(page, 2).get_by_role("button", name="Up").click()
    expect(page.locator(".fault")).to_have_count(0)  # it was the first one's, which is the second now


def test_what_is_no_number_is_not_left_out(signed_in: Dashboard) -> None:
    page = signed_in.page
    signed_in.open("/new")
    begin(page, "wanda")
    page.get_by_label("Sparsity target").fill("")
    page.get_by_label("Sparsity target").press_sequentially("5e")
    page.get_by_role("button", name="Submit").click()
    page.get_by_role("alert").get_by_text("Sparsity target: what stands there is no number").wait_for()
    expect(page.get_by_label("Sparsity target")).to_be_focused()


def test_a_refused_weight_of_a_domain_is_unfolded(signed_in: Dashboard) -> None:
    page = signed_in.page
    signed_in.open("/new")
    begin(page, "wanda")
    domain = page.get_by_role("group", name="Domain 1")
    folded = domain.locator("summary", has_text="Calibration")
    folded.click()
    domain.get_by_label("weight").fill("0")
    folded.click()
    expect(domain.get_by_label("weight")).to_be_hidden()
    page.get_by_role("button", name="Submit").click()
    domain.locator(".field", has_text="weight").locator(".fault").wait_for()


def test_a_continuation_may_say_what_is_kept_of_it(signed_in: Dashboard, api: Any, history: Any) -> None:
    page = signed_in.page
    signed_in.open(f"/new?continues={history.done}")
    domain = page.get_by_role("group", name="Domain 1")
    domain.get_by_label("Name").fill("letters")
    domain.get_by_label("Calibration text").select_option(index=1)
    page.locator("summary", has_text="Output").click()
    page.get_by_label("keep_sensitivities").select_option("true")
    page.get_by_role("button", name="Submit").click()
    page.get_by_role("heading", level=1).filter(has_text="on tiny").wait_for()
    job = api.get("/v1/jobs", params={"limit": 1}).json()["data"][0]
    assert (job["continues"], job["spec"]["output"]["keep_sensitivities"]) == (history.done, True)
