"""What a committed change tells."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics

from reconciler.core.answer import Accepted, Existing, Unknown
from reconciler.core.phase import Phase
from reconciler.core.task import EcsTask, Workload
from tests.metrics.meter import NOW, Meter, launching, started, workload


def test_each_stage_of_a_launch_is_timed_with_an_exemplar() -> None:
    meter = Meter()
    pending = workload()
    claimed = pending.moved(Phase.LAUNCHING, NOW, attempt=1, intent_at=NOW + timedelta(seconds=3))
    accepted = claimed.moved(Phase.STARTED, NOW + timedelta(seconds=4), task_arn="arn:1")
    runs = accepted.moved(
        Phase.RUNNING, NOW + timedelta(seconds=11), started_at=NOW + timedelta(seconds=10), last_status="RUNNING"
    )
    for change in ((pending, claimed), (claimed, accepted), (accepted, runs)):
        meter.shard.moved(*change)
    stages = {"queued_to_claimed": 3, "claimed_to_accepted": 1, "accepted_to_running": 6, "queued_to_running": 10}
    for stage, seconds in stages.items():
        assert meter.value("launch_stage_seconds_sum", stage=stage, queue="gpu") == seconds
    assert meter.value("observation_lag_seconds_sum", moment="started") == 1
    shown: bytes = openmetrics(meter.metrics.registry)  # type: ignore[no-untyped-call]  # prometheus-client's
    assert '# {attempt="1",exec_id="a"} 3.0' in shown.decode()


@pytest.mark.parametrize(
    ("old", "changes", "labels"),
    [
        (launching(), {"phase": Phase.PENDING, "reason": "RESOURCE:MEMORY"}, ("capacity", "again")),
        (started(stop_code="TaskFailedToStart"), {"phase": Phase.PENDING, "reason": "x: CannotPullContainerError"},
         ("image", "again")),
        (launching(), {"phase": Phase.FAILED_START, "reason": "InvalidParameterException: x"},
         ("invalid", "given_up")),
    ],
)  # fmt: skip
def test_a_launch_that_came_to_nothing_is_counted_by_its_reason(
    old: Workload, changes: dict[str, Any], labels: tuple[str, str]
) -> None:
    meter = Meter()
    new = replace(old, version=old.version + 1, **changes)
    meter.shard.moved(old, new)
    reason, action = labels
    assert meter.value("launch_failures_total", queue="gpu", reason=reason, action=action) == 1


def test_an_intent_that_lost_the_race_is_a_launch_prevented() -> None:
    meter = Meter()
    meter.shard.lost_race(workload(), launching())
    meter.shard.lost_race(launching(), started())
    assert meter.value("double_launches_prevented_total", guard="compare_and_swap") == 1


def test_a_task_that_an_unanswered_call_made_is_a_launch_prevented() -> None:
    meter = Meter()
    w = launching()
    meter.wall = NOW + timedelta(seconds=10)
    meter.shard.answered(w, Unknown("reset"))
    meter.wall = NOW + timedelta(seconds=12)
    meter.shard.answered(w, Accepted(EcsTask("arn:1", "PENDING", created_at=NOW + timedelta(seconds=9))))
    assert meter.value("double_launches_prevented_total", guard="client_token") == 1
    meter.shard.answered(w, Accepted(EcsTask("arn:2", "PENDING", created_at=NOW + timedelta(seconds=12))))
    assert meter.value("double_launches_prevented_total", guard="client_token") == 1
    meter.shard.answered(w, Existing(("arn:1",)))
    assert meter.value("double_launches_prevented_total", guard="conflict") == 1
    assert meter.value("launches_total", result="accepted") == 2


def test_gates_and_breakers() -> None:
    meter = Meter()
    meter.shard.held({"default": "no capacity", "credentials": "expired"})
    meter.shard.seen(2, {"missing": False, "orphans": True}, {})
    assert meter.value("launches_held", cause="ecs", profile="default") == 1
    assert meter.value("launches_held", cause="ecs", profile="small") == 0
    assert meter.value("launches_held", cause="api_server", profile="all") == 0
    assert meter.value("launches_held", cause="credentials", profile="all") == 1
    assert meter.value("breaker_tripped", breaker="orphans") == 1
    assert meter.value("orphans") == 2
