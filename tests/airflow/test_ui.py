"""Airflow's own UI, in a real browser: what a user finds who asks why a task did not start."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.airflow.conftest import on_newest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import FrameLocator, Locator, Page

    from tests.airflow.conftest import Scenario

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(600)]

PICTURE = "why-did-it-not-start.png"
PICTURE_OF_TAB = "airflow-task-instance.png"
PICTURE_OF_VIEW = "airflow-view.png"


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
            context = chromium.new_context(viewport={"width": 1280, "height": 800})
            yield context.new_page()
        finally:
            chromium.close()


@on_newest
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

    keep(page, tmp_path / PICTURE)


def test_the_status_page_is_in_airflows_navigation_and_a_tab_of_each_task_instance(
    unpullable: Scenario, page: Page, tmp_path: Path
) -> None:
    page.set_default_timeout(120_000)
    home = unpullable.stack.url
    page.goto(home, wait_until="domcontentloaded")
    page.get_by_role("button", name="Browse").or_(page.get_by_text("Browse", exact=True)).first.click()
    page.get_by_role("menuitem", name="ECS").or_(page.get_by_role("link", name="ECS")).first.click()
    shown = page.frame_locator("iframe")
    expect(shown.get_by_role("status")).to_have_text("healthy")
    expect(shown.locator("#limit")).to_have_text("16")
    # Others failed too, for reasons of their own: of those whom a user gave up, that is what they tell.
    of_run = failed(shown).filter(has_text=re.compile(rf"{unpullable.run_id} try"))
    expect(of_run).to_contain_text("CannotPullContainerError")
    keep(page, tmp_path / PICTURE_OF_VIEW)
    page.evaluate("document.documentElement.style.colorScheme = 'dark'")  # as Airflow's own switch does
    expect(shown.locator("html")).to_have_css("color-scheme", "dark")

    # The frame may open nothing; a link is followed all the same, by Airflow's page around it.
    with page.context.expect_page() as opened:
        of_run.get_by_role("link", name="Airflow").click()
    opened.value.wait_for_load_state("domcontentloaded")
    assert f"/dags/unpullable/runs/{unpullable.run_id}/" in opened.value.url
    opened.value.close()

    page.goto(f"{home}/dags/unpullable/runs/{unpullable.run_id}/tasks/work")
    page.get_by_role("tab", name="ECS").or_(page.get_by_role("link", name="ECS")).last.click()
    shown = page.frame_locator("iframe")
    expect(failed(shown)).to_have_count(1)
    expect(shown.get_by_role("textbox", name="run")).to_have_value(unpullable.run_id)
    expect(shown.get_by_role("textbox", name="map")).to_have_value("")
    events = shown.locator("#events li")
    expect(events.first).to_contain_text("FAILED_START")
    expect(events.last).to_contain_text("queued in default")
    assert sum("to be launched" in text for text in events.all_inner_texts()) == 4
    expect(shown.locator("#h-quota")).to_be_hidden()
    keep(page, tmp_path / PICTURE_OF_TAB)


def failed(shown: FrameLocator) -> Locator:
    return shown.locator("#rows tr").filter(has_text="FAILED_START")


def keep(page: Page, picture: Path) -> None:
    """A screenshot for whoever wants to look: SAVE_SCREENSHOTS names a folder."""
    page.screenshot(path=picture)
    assert picture.stat().st_size > 10_000
    if folder := os.environ.get("SAVE_SCREENSHOTS"):
        shutil.copy(picture, Path(folder) / picture.name)
