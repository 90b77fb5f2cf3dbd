"""Airflow's own UI, in a real browser: what a user finds who asks why a task did not start."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

    from tests.airflow.conftest import Scenario

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(600)]

PICTURE = "why-did-it-not-start.png"


@pytest.fixture
def page() -> Iterator[Page]:
    """A page of the distribution's Chromium."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    switches = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, headless=True, args=switches)
        try:
            yield chromium.new_page(viewport={"width": 1280, "height": 800})
        finally:
            chromium.close()


@pytest.mark.parametrize("stack", ["3.3"], indirect=True)
def test_a_user_finds_in_the_ui_why_a_task_did_not_start(unpullable: Scenario, page: Page, tmp_path: Path) -> None:
    """From the start page, as one who has just heard that a task failed."""
    page.set_default_timeout(120_000)
    page.goto(unpullable.stack.url, wait_until="domcontentloaded")
    page.get_by_text("Dags", exact=True).first.wait_for()  # logged in
    page.goto(f"{unpullable.stack.url}/dags/unpullable/runs/{unpullable.run_id}/tasks/work")
    page.get_by_role("tab", name="Audit Log").or_(page.get_by_text("Audit Log", exact=True)).first.click()

    page.get_by_text("state mismatch").wait_for()
    shown = page.inner_text("body")
    assert "The ECS container could not be started, after 4 attempts" in shown
    assert "CannotPullContainerError: pull image manifest has been retried" in shown
    assert "ecs task launched again" in shown
    assert shown.count("ecs start failed") == 4

    picture = tmp_path / PICTURE
    page.screenshot(path=picture)
    assert picture.stat().st_size > 10_000
    if folder := os.environ.get("SAVE_SCREENSHOTS"):
        shutil.copy(picture, Path(folder) / PICTURE)
