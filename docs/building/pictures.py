"""Draws the pictures of docs/pictures: `python docs/building/pictures.py JOB`, beside a running service.

The key is found as the command line finds it. Chromium (Debian's `chromium`, or SECATEUR_TEST_CHROMIUM) shows the
dashboard.
"""

import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from secateur import Client
from secateur.config import find_config
from secateur.figures import perplexity_matrix, png

FOLDER = Path(__file__).resolve().parents[1] / "pictures"


def main(job: str) -> None:
    config = find_config(None, None)
    FOLDER.mkdir(exist_ok=True)
    with Client(config.url, config.key) as client:
        (FOLDER / "r.png").write_bytes(png(perplexity_matrix(client.evaluation(job))))
    with sync_playwright() as playwright:
        program = os.environ.get("SECATEUR_TEST_CHROMIUM") or shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for theme in ("light", "dark"):
            page = browser.new_page(viewport={"width": 1200, "height": 760}, color_scheme=theme)
            page.set_default_timeout(120_000)
            show(page, f"{config.url}/ui/jobs/{job}/results", config.key)
            page.screenshot(path=FOLDER / f"dashboard-{theme}.png")
        browser.close()


def show(page: Page, address: str, key: str) -> None:
    """Signed in, with all its pictures drawn."""
    page.goto(address)
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.locator("canvas").first.wait_for()
    page.wait_for_selector(".spinner", state="detached")
    page.wait_for_load_state("networkidle")


if __name__ == "__main__":
    main(*sys.argv[1:])
