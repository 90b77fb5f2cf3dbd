"""What the executor tells a task's page in the API server, where nothing of it is started; and who comes first."""

# Much of Airflow is not typed.
# mypy: allow-untyped-calls

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow import settings
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from sqlalchemy import select

from reconciler.store.daemon import SqlStore

if TYPE_CHECKING:
    import pytest

    from tests.shim.inside.world import World

ARN = "arn:aws:ecs:eu-central-1:1:task/airflow/0123"


def test_a_running_tasks_page_asks_an_executor_that_was_never_started(world: World) -> None:
    (w,) = world.queued()
    world.daemon(w.exec_id, phase="RUNNING", attempt=1, task_arn=ARN)
    beside = type(world.executor)()
    with create_session() as session:
        ti = session.scalars(select(TaskInstance)).one()
        messages, lines = beside.get_task_log(ti, 1)
        assert beside.get_task_log(ti, 2) == ([], [])
    assert lines == []
    assert ARN in messages[0]
    assert "can not be read from CloudWatch Logs" in messages[0]


def test_an_error_leaves_the_page_as_it_would_be_without_us(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.queued()
    monkeypatch.setattr("reconciler.airflow.executor.running", lambda *_: 1 / 0)
    with create_session() as session:
        assert world.executor.get_task_log(session.scalars(select(TaskInstance)).one(), 1) == ([], [])


def test_of_what_airflow_has_queued_the_most_urgent_is_launched_first_and_then_the_oldest(world: World) -> None:
    rows = [world.queued(priority_weight=weight)[0] for weight in (10, 30, 20, 30, 10)]
    backlog = SqlStore(settings.get_engine(), "test").launchable(10).workloads
    expected = [rows[index].exec_id for index in (1, 3, 2, 0, 4)]
    assert [w.exec_id for w in backlog] == expected
