"""Airflow's own UI, in a real browser: what a user finds who asks why a task did not start."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.airflow.conftest import on_newest
from tests.browser import SECONDS, chromium, keep

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import FrameLocator, Locator, Page

    from tests.airflow.conftest import Scenario

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(1200)]


@pytest.fixture
def page() -> Iterator[Page]:
    with chromium() as browser:
        page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
        page.set_default_timeout(SECONDS * 1000)
        yield page


@on_newest
def test_a_user_finds_in_the_ui_why_a_task_did_not_start(unpullable: Scenario, page: Page) -> None:
    """From the start page, as one who has just heard that a task failed."""
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

    keep(page, "why-did-it-not-start", full_page=False)


def test_the_status_page_is_in_airflows_navigation_and_a_tab_of_each_task_instance(
    unpullable: Scenario, page: Page
) -> None:
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
    keep(page, "airflow-view", full_page=False)
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
    keep(page, "airflow-task-instance", full_page=False)


def failed(shown: FrameLocator) -> Locator:
    return shown.locator("#rows tr").filter(has_text="FAILED_START")
