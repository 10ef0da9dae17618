"""Tab in a real Chromium: it leads to every control of a page, in the page's order, and shows where it is.

Slow: only a browser moves a focus and draws it.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.app.ui.conftest import Dashboard, History

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

FIND = """() => {
  const controls = 'a[href], button, input, select, textarea, summary, iframe, [tabindex="0"], [role=button]';
  const isOffered = each => !each.disabled && each.checkVisibility({visibilityProperty: true})
    && !(each.type === 'radio' && !each.checked);
  window.controls = [...document.querySelectorAll(controls)].filter(isOffered);
  document.activeElement.blur();
  window.getSelection().empty();
  document.body.tabIndex = -1;  // from the page's beginning, wherever the focus was
  document.body.focus();
  document.body.removeAttribute('tabindex');
  const nameOf = each => (each.ariaLabel ?? each.labels?.[0]?.textContent ?? each.textContent).trim();
  return window.controls.map(each => `${each.tagName.toLowerCase()} ${nameOf(each)}`);
}"""
"""What the page offers, by name, in its order."""
LOOK = """() => {
  const here = document.activeElement;
  if (here === null || here === document.body) return null;
  const style = getComputedStyle(here);
  const isDrawn = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 1
    && !/^rgba.* 0.$/.test(style.outlineColor);
  const shown = [...here.getClientRects()].some(box => {
    const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
    const top = document.elementFromPoint(x, y);
    return top !== null && (here.contains(top) || top.contains(here));
  });
  return {number: window.controls.indexOf(here), what: here.outerHTML.slice(0, 150), isDrawn, shown};
}"""
"""Where the focus is, whether an outline is drawn around it, and whether nothing covers it."""


def unfold(page: Page) -> None:
    """Open what is folded, also within what was."""
    folded = page.locator("details:not([open]) > summary")
    while folded.count():
        folded.first.click()


def add_and_unfold(page: Page) -> None:
    """The form of a job with a second domain and two overrides."""
    page.get_by_role("button", name="Add a domain").click()
    for _ in range(2):
        page.get_by_role("button", name="Add an override").click()
    unfold(page)


def walk(page: Page) -> list[str]:
    """What is wrong with the way that Tab takes from the page's beginning to its end."""
    names: list[str] = page.evaluate(FIND)
    assert names, "a page without controls"
    faults: list[str] = []
    way: list[int] = []
    for _ in range(8 * len(names)):  # a field of a date takes several
        page.keyboard.press("Tab")
        here: dict[str, Any] | None = page.evaluate(LOOK)
        if here is None or (way and here["number"] == way[0] and len(way) > 1):
            break
        if way and here["number"] == way[-1]:
            continue
        assert here["number"] >= 0, f"what came later: {here['what']}"
        way.append(here["number"])
        if not here["isDrawn"] or not here["shown"]:
            faults.append(f"not to be seen: {here['what']}")
    faults += [f"not reached: {name}" for number, name in enumerate(names) if number not in way]
    return faults + [f"out of order: {names[b]}" for a, b in pairwise(way) if b < a]


PAGES: dict[str, Callable[[Page], None]] = {
    "/webhooks": lambda page: None,
    "/webhooks/{webhook}": lambda page: None,
    "/audit": lambda page: None,
    "/audit?action=create_job&outcome=done": lambda page: None,
    "/new": add_and_unfold,
    "/new?continues={done}": unfold,
}
"""And what is opened on each."""


@pytest.mark.parametrize("width", [400, 1400])
def test_tab_leads_to_every_control_and_shows_where_it_is(
    width: int, signed_in: Dashboard, history: History
) -> None:
    page = signed_in.page
    page.set_viewport_size({"width": width, "height": 900})
    found: list[str] = []
    for path, prepare in PAGES.items():
        signed_in.open(path.format(**vars(history)))
        page.locator(".project[title]").wait_for(state="attached")  # before that, no action is offered
        signed_in.settle()
        prepare(page)
        found += [f"{path}: {fault}" for fault in walk(page)]
    assert found == []
