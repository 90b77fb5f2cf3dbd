"""The daemon as a process, with a queue of events."""

from __future__ import annotations

import itertools
import signal
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.core.phase import Phase
from reconciler.localecs import AwsError, LocalEcs, Settings
from reconciler.store.migrate import migrate
from tests.site import Site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A site whose ECS tells of its tasks, and whose containers run until a test ends them."""
    with LocalEcs(settings=Settings.unthrottled(), events_queue="airflow-events") as ecs:
        made = Site(ecs, tmp_path)
        made.environment["AWS_ENDPOINT_URL_SQS"] = ecs.endpoint_url
        made.environment["AIRFLOW__ECS_RECONCILER__EVENTS_QUEUE_URL"] = ecs.sqs.events_queue_url or ""
        made.environment.pop("AIRFLOW__ECS_RECONCILER__SWEEP_INTERVAL")
        migrate(made.engine)
        yield made
        made.engine.dispose()


def looks(site: Site) -> int:
    answered: int = site.ecs.stats()["operations"]["DescribeTasks"]["answered"]
    return answered


def end(site: Site, *exec_ids: str) -> None:
    for exec_id in exec_ids:
        site.ecs.container_exited(site.row(exec_id).task_arn or "", "airflow", 0)


def phases(site: Site, *exec_ids: str) -> set[Phase]:
    return {site.row(exec_id).phase for exec_id in exec_ids}


def test_ends_are_heard_with_few_looks_and_when_the_queue_stalls_looks_take_over(site: Site) -> None:
    first, second, third = ([f"{name}{n}" for n in range(5)] for name in "abc")
    with site.daemon() as daemon:
        daemon.until_it_says("this replica leads")
        site.queue(*first, *second, *third)
        site.until(lambda: phases(site, *first, *second, *third) == {Phase.RUNNING}, daemon.log)
        # What came late once is believed again only after more has come in time.
        for name in (f"more{n}" for n in itertools.count()):
            if "events tell what happens" in daemon.log.read_text():
                break
            site.queue(name)
            site.until(lambda name=name: phases(site, name) == {Phase.RUNNING}, daemon.log)  # type: ignore[misc] # a lambda with a default has no type
        assert daemon.metric('ecs_reconciler_events_fresh{source="sqs"}') == 1

        # Of what happens now nothing is looked at: ECS would call a look an error.
        with site.ecs.lock:
            deaf = site.ecs.model.faults.on_call("DescribeTasks", AwsError("ServerException", "", 500), times=None)
        end(site, *first)
        site.until(lambda: phases(site, *first) == {Phase.EXITED}, daemon.log)
        assert {site.row(exec_id).exit_code for exec_id in first} == {0}
        with site.ecs.lock:
            site.ecs.model.faults.remove(deaf)
        site.until(lambda: daemon.metric('ecs_reconciler_events_received_total{result="applied"}') >= 15)
        assert daemon.metric('ecs_reconciler_event_lag_seconds_count{source="sqs"}') >= 15

        # From here on events are lost.
        with site.ecs.sqs.lock:
            site.ecs.sqs.model.faults.on_delivery(copies=0, times=None)
        end(site, *second)
        site.until(lambda: phases(site, *second) == {Phase.EXITED}, daemon.log)
        daemon.until_it_says("events are not relied on")
        assert daemon.metric('ecs_reconciler_events_fresh{source="sqs"}') == 0
        before = looks(site)
        site.until(lambda: looks(site) > before + 3, daemon.log)
        end(site, *third)
        site.until(lambda: phases(site, *third) == {Phase.EXITED}, daemon.log)
        site.until(lambda: left(site) == 0)

        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(60) == 0


def left(site: Site) -> int:
    counts: dict[str, Any] = site.ecs.stats()["sqs"]["queues"]["airflow-events"]
    return int(counts["visible"] + counts["in_flight"])


def test_a_queue_that_can_not_be_read_is_said_and_keeps_nothing_from_its_work(site: Site) -> None:
    site.environment["AIRFLOW__ECS_RECONCILER__EVENTS_QUEUE_URL"] = f"{site.ecs.endpoint_url}/123456789012/nowhere"
    with site.daemon() as daemon:
        daemon.until_it_says("[ecs_reconciler] events_queue_url: can not be read")
        daemon.until_it_says("this replica leads")
        site.queue("a")
        site.until(lambda: phases(site, "a") == {Phase.RUNNING}, daemon.log)
        end(site, "a")
        site.until(lambda: phases(site, "a") == {Phase.EXITED}, daemon.log)
        assert daemon.get("/readyz") == (200, "leading\n")
        assert daemon.metric('ecs_reconciler_aws_api_requests_total{operation="ReceiveMessage",result="ok"}') == 0


def test_doctor_looks_at_the_queue(site: Site) -> None:
    assert "events_queue_url: is there" in said(site)
    url = f"{site.ecs.endpoint_url}/123456789012/nowhere"
    found = said(site, AIRFLOW__ECS_RECONCILER__EVENTS_QUEUE_URL=url)
    assert "events_queue_url: can not be read" in found
    assert "sqs:ReceiveMessage" in found


def said(site: Site, **changes: str) -> str:
    """What doctor says, on one line."""
    return " ".join(site.call("doctor", **changes).stdout.split())
