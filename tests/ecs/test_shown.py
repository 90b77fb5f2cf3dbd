"""Reading a task: whose container it is, and what is absent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from reconciler.core.runtask import EXEC_ID_VARIABLE
from reconciler.core.task import Container
from reconciler.ecs.shown import ecs_task

OURS = {"name": "main", "environment": [{"name": "A", "value": "b"}, {"name": EXEC_ID_VARIABLE, "value": "w-1"}]}
THEIRS = {"name": "sidecar", "environment": [{"name": "A", "value": "b"}]}


def shown(**members: Any) -> dict[str, Any]:
    return {"taskArn": "arn", "lastStatus": "STOPPED", **members}


@pytest.mark.parametrize("overrides", [[OURS, THEIRS], [THEIRS, OURS], [OURS], [{"name": "bare"}, OURS]])
@pytest.mark.parametrize("backwards", [False, True])
def test_our_container_is_the_one_whose_override_names_a_workload(
    overrides: list[dict[str, Any]], backwards: bool
) -> None:
    containers = [{"name": "main", "exitCode": 0, "runtimeId": "r"}, {"name": "sidecar", "exitCode": 9}]
    task = ecs_task(
        shown(overrides={"containerOverrides": overrides}, containers=containers[::-1] if backwards else containers)
    )
    assert task.container == Container(exit_code=0, runtime_id="r")


def test_the_container_of_a_task_that_the_official_executor_started_is_known_too() -> None:
    mark = {"name": "AIRFLOW_IS_EXECUTOR_CONTAINER", "value": "true"}
    containers = [{"name": "main", "exitCode": 0}, {"name": "sidecar", "exitCode": 9}]
    adopted = {"name": "main", "environment": [mark]}
    assert ecs_task(shown(overrides={"containerOverrides": [adopted]}, containers=containers)).container == Container(0)
    other = {"name": "sidecar", "environment": [mark]}
    task = ecs_task(shown(overrides={"containerOverrides": [other, OURS]}, containers=containers))
    assert task.container == Container(0)


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"containers": []},
        {"containers": [], "overrides": {"containerOverrides": [OURS]}},
        {"overrides": {"containerOverrides": [OURS]}},
        {"containers": [{"name": "main", "exitCode": 1}]},
        {"containers": [{"name": "main", "exitCode": 1}], "overrides": {}},
        {"containers": [{"name": "sidecar", "exitCode": 1}], "overrides": {"containerOverrides": [OURS]}},
        {"containers": [{"name": "sidecar", "exitCode": 1}], "overrides": {"containerOverrides": [THEIRS]}},
    ],
)
def test_no_other_container_passes_for_ours(members: dict[str, Any]) -> None:
    assert ecs_task(shown(**members)).container is None


def test_an_absent_exit_code_is_not_zero() -> None:
    task = ecs_task(shown(containers=[{"name": "main", "reason": "x"}], overrides={"containerOverrides": [OURS]}))
    assert task.container == Container(exit_code=None, reason="x")


def test_an_event_and_an_answer_with_the_same_times_are_the_same_task() -> None:
    moment = datetime(2026, 3, 1, 12, 30, 15, 250_000, tzinfo=UTC)
    elsewhere = moment.astimezone(timezone(timedelta(hours=-8)))
    answer = shown(createdAt=elsewhere, startedAt=elsewhere, stoppedAt=elsewhere, version=4)
    text = "2026-03-01T12:30:15.250Z"
    event = shown(createdAt=text, startedAt=text, stoppedAt=text, version=4)
    assert ecs_task(answer) == ecs_task(event)
    assert [str(ecs_task(task).stopped_at) for task in (answer, event)] == [str(moment)] * 2
