"""The status page in a real browser: under load, empty, broken, locked, on a telephone."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, Page, expect

from reconciler.core.task import TaskKey
from reconciler.localecs import AwsError, LocalEcs, Settings
from reconciler.store.migrate import migrate
from tests.browser import chromium, keep
from tests.site import Site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Postgres
    from tests.site import Daemon

MARKUP = "<img src=x onerror=\"document.title='owned'\"><b>bold</b>"
PHASES = {"PENDING", "STARTED", "RUNNING", "FAILED_START"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that has fetched nothing from elsewhere and said nothing in its console."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    yield page
    assert said == []
    assert [url for url in asked if "//127.0.0.1:" not in url] == []
    context.close()


@pytest.fixture
def quiet(tmp_path: Path) -> Iterator[Site]:
    """A local ECS whose containers run for ever and do nothing."""
    with LocalEcs(settings=Settings.unthrottled(), on_effect=lambda _: None) as ecs:
        site = Site(ecs, tmp_path)
        migrate(site.engine)
        yield site
        site.engine.dispose()


def address(daemon: Daemon) -> str:
    daemon.until_it_says("serving metrics")
    return str(next(event["address"] for event in daemon.events if "address" in event))


def test_under_load_it_shows_everything_and_runs_no_markup(quiet: Site, page: Page) -> None:
    # One can not be started; the others fill the quota, and ten of them wait.
    quiet.ecs.model.faults.on_start(
        "CannotPullContainerError: pull image manifest has been retried 1 time(s): not found",
        where=lambda request: request["startedBy"].split("/")[1].startswith("broken"),
        times=None,
    )
    names = [f"w{number:02}" for number in range(40)]
    for number, name in enumerate(names):
        key = TaskKey("sales_etl", "load_partition", "scheduled__2026-01-01T00:00:00+00:00", number, 1)
        quiet.queue(name, key=key, queue="default" if number % 4 else "gpu")
    quiet.queue("broken", key=TaskKey(MARKUP, "no_image", "manual__2026-01-01", -1, 1), priority=9)
    limits = {
        "AIRFLOW__ECS_RECONCILER__MAX_RUNNING_TASKS": "30",
        "AIRFLOW__AWS_ECS_EXECUTOR__MAX_RUN_TASK_ATTEMPTS": "1",
        "AIRFLOW__API__BASE_URL": "https://airflow.example",
    }
    with quiet.daemon(**limits) as daemon:
        page.goto(address(daemon))
        expect(page.get_by_role("status")).to_have_text("healthy")
        expect(page.locator("#used")).to_have_text("30")
        expect(page.get_by_role("img", name="30 of 30 used")).to_be_visible()
        expect(page.locator("#rows .phase").first).to_have_text("FAILED_START")
        rows = page.locator("#rows tr")
        expect(rows.first).to_contain_text("CannotPullContainerError")
        expect(rows.first).to_contain_text(f"{MARKUP}.no_image")
        assert page.title() == "test · ecs-reconciler"
        assert page.locator("#rows img, #events img, #rows b").count() == 0
        expect(rows).to_have_count(41)
        expect(page.get_by_role("row", name="PENDING").first).to_contain_text("waits for a free slot")
        expect(page.locator("#events")).to_contain_text("CannotPullContainerError")
        expect(page.locator("#levels svg")).to_have_attribute("aria-label", "now: running 30, starting 0, pending 10")
        ecs = page.get_by_role("link", name="ECS").first.get_attribute("href") or ""
        assert ecs.startswith("https://us-east-1.console.aws.amazon.com/ecs/v2/clusters/default/tasks/")
        keep(page, "load")

        # By keyboard alone: to the filter, and the address remembers it.
        page.get_by_label("phase").focus()
        page.get_by_label("phase").select_option("PENDING")
        expect(rows).to_have_count(10)
        page.get_by_label("queue", exact=True).fill("gpu")
        expect(page.locator("#found")).not_to_have_text("10")
        assert "phase=PENDING" in page.url
        page.reload()
        expect(page.get_by_label("phase")).to_have_value("PENDING")
        expect(rows.first).to_contain_text("PENDING")

        # Everything that can be operated has a name, and every heading names its part.
        for control in page.locator("input:visible, select:visible, button:visible, a:visible").all():
            assert control.evaluate("e => Boolean(e.labels?.length || e.textContent.trim() || e.ariaLabel)")
        assert page.locator("section:not([aria-labelledby])").count() == 0

        page.emulate_media(color_scheme="dark")
        page.goto(address(daemon))
        expect(rows.first).to_contain_text("no_image")
        keep(page, "dark")
        page.set_viewport_size({"width": 390, "height": 844})
        expect(page.locator("#used")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        keep(page, "telephone")

        # New things appear by themselves.
        quiet.queue("late", key=TaskKey("late_dag", "late_task", "run", -1, 1))
        expect(page.locator("#rows")).to_contain_text("late_dag.late_task")


def test_an_empty_one_is_calm(quiet: Site, page: Page) -> None:
    with quiet.daemon() as daemon:
        page.goto(address(daemon))
        expect(page.get_by_role("status")).to_have_text("healthy")
        expect(page.locator("#used")).to_have_text("0")
        expect(page.locator("#rows")).to_contain_text("No workload matches.")
        expect(page.locator("#reasons")).to_be_hidden()
        expect(page.locator("#events")).to_contain_text("this replica leads")
        keep(page, "empty")


@pytest.mark.postgres
def test_what_is_broken_is_said_first_and_heals(quiet: Site, page: Page, postgres: Postgres) -> None:
    database = postgres.new_database()
    quiet.use(postgres.url(database))
    migrate(quiet.engine)
    quiet.queue("waits")
    # Let through at start, refused as soon as something is to be launched.
    expired = AwsError("ExpiredTokenException", "The security token included in the request is expired")
    rule = quiet.ecs.model.faults.on_call("RunTask", expired, times=None)
    with quiet.daemon() as daemon:
        page.goto(address(daemon))
        expect(page.get_by_role("status")).to_have_text("degraded")
        expect(page.locator("#reasons")).to_contain_text("The security token included in the request is expired")
        expect(page.locator("#rows")).to_contain_text("launches are held")
        keep(page, "credentials")
        quiet.ecs.model.faults.remove(rule)
        expect(page.get_by_role("status")).to_have_text("healthy")
        expect(page.locator("#reasons")).to_be_hidden()

        postgres.run(f"DROP DATABASE {database} WITH (FORCE)")
        expect(page.get_by_role("status")).to_have_text("down")
        expect(page.locator("#reasons")).to_contain_text("the database can not be reached")
        keep(page, "database")

    expect(page.locator("#reasons")).to_contain_text("the daemon does not answer")


def test_a_locked_page_asks_for_its_token(quiet: Site, page: Page) -> None:
    with quiet.daemon(AIRFLOW__ECS_RECONCILER__STATUS_PAGE_TOKEN="a-token") as daemon:
        page.goto(address(daemon))
        expect(page.get_by_role("status")).to_have_text("locked")
        expect(page.locator("#rows")).to_be_hidden()
        page.get_by_label("Token").fill("a-wrong-one")
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_have_text("locked")
        page.get_by_label("Token").fill("a-token")
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_have_text("healthy")
        assert "a-token" not in daemon.log.read_text()
        assert "a-token" not in page.content()


def test_with_several_regions_it_says_which_is_meant(quiet: Site, page: Page) -> None:
    queues = {"far": {"region_name": "eu-west-1", "max_running_tasks": 1}}
    for number, queue in enumerate(("far", "far", "default")):
        quiet.queue(f"w{number}", key=TaskKey("etl", "load", "run", number, 1), queue=queue)
    with quiet.daemon(AIRFLOW__ECS_RECONCILER__QUEUES=json.dumps(queues)) as daemon:
        page.goto(address(daemon))
        expect(page.locator("#stamp")).to_contain_text("this replica leads eu-west-1, us-east-1")
        expect(page.get_by_role("status")).to_have_text("healthy")
        expect(page.locator("#controllers tr").first).to_contain_text(re.compile("launch in (eu-west|us-east)-1"))
        expect(page.locator("#facts")).to_contain_text("eu-west-1/launch calls")
        expect(page.locator("#allowed")).to_have_text("2376 a minute")  # twice 19.8 a second
        # The queue's own limit is reached, and there is room for everybody else.
        expect(page.get_by_role("row", name="PENDING")).to_contain_text("waits for a free slot")
        expect(page.locator("#used")).to_have_text("2")
        keep(page, "regions")


def test_a_page_that_is_switched_off_is_not_there(quiet: Site) -> None:
    with quiet.daemon(AIRFLOW__ECS_RECONCILER__STATUS_PAGE="False") as daemon:
        address(daemon)
        assert daemon.get("/")[0] == 404
        assert daemon.get("/api/v1/status")[0] == 404
        assert daemon.get("/livez")[0] == 200
