"""Schedulers die and others go on; tasks are revoked and queued again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow import settings

from reconciler.airflow import transactions
from reconciler.core.phase import Phase
from reconciler.store import shim
from tests.scale.crowd import Crowd, fill
from tests.scale.plans import explained, recorded
from tests.shim.inside.world import Scheduler, World, sql

if TYPE_CHECKING:
    from reconciler.core.task import Workload

NOW = datetime.now(UTC)


def successor(world: World) -> World:
    """Another scheduler, after the first one has died."""
    world.die()
    return World()


def test_the_workloads_of_a_dead_scheduler_are_taken_over_with_their_slots(world: World) -> None:
    queued, running, ended = world.queued(3)
    world.daemon(running.exec_id, phase="RUNNING", attempt=1)
    world.set_ti(running, state="running", last_heartbeat_at=NOW)
    world.daemon(ended.exec_id, phase="FAILED_START", reason="no such image")
    other = successor(world)

    assert other.runner.adopt_or_reset_orphaned_tasks() == 0

    assert {w.owner_job_id for w in other.rows()} == {other.job.id}
    assert other.executor.slots_occupied == 2
    other.beat()
    assert [other.ti(w)["state"] for w in (queued, running, ended)] == ["queued", "running", "failed"]
    assert other.executor.slots_occupied == 2


def test_a_queued_task_whose_row_was_never_written_gets_it_from_the_next_scheduler(world: World) -> None:
    (w,) = world.queued(executor_config={"tags": []})
    sql("DELETE FROM ecs_workload")
    other = successor(world)

    assert other.runner.adopt_or_reset_orphaned_tasks() == 0

    (row,) = other.rows()
    assert (row.exec_id, row.ti_id, row.phase, row.owner_job_id) == (w.exec_id, w.ti_id, Phase.PENDING, other.job.id)
    assert row.spec is not None
    assert w.spec is not None
    assert (row.spec.workload, row.spec.executor_config) == (w.spec.workload, {"tags": []})
    assert other.executor.slots_occupied == 1


ARN = "arn:aws:ecs:eu-central-1:123456789012:task/airflow/0123abcd"
"""What Airflow's official ECS executor leaves in `external_executor_id`."""


@pytest.mark.parametrize(
    "facts", [{"state": "queued"}, {"state": "running", "last_heartbeat_at": NOW}, {"state": "running"}]
)
def test_an_ecs_task_that_the_official_executor_started_is_adopted(world: World, facts: dict[str, Any]) -> None:
    (w,) = world.queued(executor_config={"tags": []})
    sql("DELETE FROM ecs_workload")
    world.set_ti(w, external_executor_id=ARN, **facts)
    other = successor(world)

    assert other.runner.adopt_or_reset_orphaned_tasks() == 0

    (row,) = other.rows()
    assert (row.phase, row.task_arn, row.cluster, row.attempt) == (Phase.STARTED, ARN, "airflow", 1)
    assert row.shard == "eu-central-1"
    assert (row.ti_id, row.owner_job_id, row.desired) == (w.ti_id, other.job.id, "RUN")
    assert row.intent_at is not None
    assert row.spec is not None
    assert row.spec.executor_config == {"tags": []}
    assert world.ti(w)["external_executor_id"] == row.exec_id
    assert world.ti(w)["state"] == facts["state"]
    assert other.executor.slots_occupied == 1
    other.beat()
    other.beat()
    assert [r.desired for r in other.rows()] == ["RUN"]


def test_an_adopted_ecs_task_ends_like_one_of_ours(world: World) -> None:
    """It dies: Airflow hears of it. It is cancelled: the daemon is told to stop it."""
    died, cancelled = world.queued(2)
    sql("DELETE FROM ecs_workload")
    for number, w in enumerate((died, cancelled)):
        long_ago = NOW - timedelta(hours=1)
        world.set_ti(w, external_executor_id=f"{ARN}{number}", state="running", last_heartbeat_at=long_ago)
    other = successor(world)
    assert other.runner.adopt_or_reset_orphaned_tasks() == 0
    rows = {w.ti_id: w for w in other.rows()}

    world.set_ti(cancelled, state="failed")
    other.daemon(rows[died.ti_id].exec_id, phase="EXITED", exit_code=137, stopped_at=NOW, reason="OutOfMemory")
    other.beat()
    other.beat()

    assert world.ti(died)["state"] == "failed"
    assert other.row(rows[cancelled.ti_id].exec_id).desired == "STOP"


def test_an_adoption_that_can_not_be_written_changes_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (w,) = world.queued()
    sql("DELETE FROM ecs_workload")
    world.set_ti(w, external_executor_id=ARN, state="running", last_heartbeat_at=NOW)
    other = successor(world)
    with monkeypatch.context() as patch:
        patch.setattr(shim, "insert", lambda connection, _: connection.exec_driver_sql("SELECT no_such_column"))
        assert other.runner.adopt_or_reset_orphaned_tasks() == 0
    assert (world.ti(w)["state"], world.ti(w)["external_executor_id"]) == ("running", ARN)
    assert other.rows() == []


def test_a_task_that_runs_under_the_executor_before_ours_goes_on(world: World) -> None:
    (w,) = world.queued()
    sql("DELETE FROM ecs_workload")
    world.set_ti(w, state="running", last_heartbeat_at=NOW, external_executor_id="a pod, or a message of Celery")

    assert successor(world).runner.adopt_or_reset_orphaned_tasks() == 0

    assert (world.ti(w)["state"], str(world.ti(w)["id"])) == ("running", w.ti_id)


@pytest.mark.parametrize(
    "facts",
    [
        {"external_executor_id": "a-pod-or-something-else"},
        {"external_executor_id": None},
        {"state": "restarting"},
        {"state": "running", "last_heartbeat_at": None},
    ],
    ids=["queued elsewhere", "queued nowhere", "restarting", "never heard of"],
)
def test_a_task_that_nobody_can_tell_the_end_of_is_started_anew(world: World, facts: dict[str, Any]) -> None:
    (w,) = world.queued()
    sql("DELETE FROM ecs_workload")
    world.set_ti(w, **facts)
    other = successor(world)

    assert other.runner.adopt_or_reset_orphaned_tasks() == 1

    assert world.ti(w)["state"] is None
    assert str(world.ti(w)["id"]) != w.ti_id
    assert other.rows() == []
    assert other.running == set()


def test_an_error_of_the_database_does_not_start_everything_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = world.queued(2)
    other = successor(world)
    with monkeypatch.context() as patch:
        patch.setattr(shim, "adopt", _failing)
        assert other.runner.adopt_or_reset_orphaned_tasks() == 0

    assert [world.ti(w)["queued_by_job_id"] for w in rows] == [other.job.id] * 2
    other.executor._parts._upkeep._take_over_due._last = None
    other.beat()
    assert {w.owner_job_id for w in other.rows()} == {other.job.id}
    assert other.executor.slots_occupied == 2


def _failing(*_args: Any, **_kwargs: Any) -> Any:
    raise RuntimeError("planted")


def test_what_adoption_does_not_reach_is_taken_over_all_the_same(world: World) -> None:
    """A callback, and a container whose task instance was marked failed before its scheduler died."""
    callback = world.queued_callback()
    world.schedule()
    world.queue()
    (task,) = [w for w in world.rows() if w.exec_id != callback.exec_id]
    world.daemon(task.exec_id, phase="RUNNING", attempt=1)
    world.set_ti(task, state="failed")
    other = successor(world)
    assert other.runner.adopt_or_reset_orphaned_tasks() == 0

    other.beat()

    assert {w.owner_job_id for w in other.rows()} == {other.job.id}
    other.beat()
    assert other.row(task.exec_id).desired_reason == "the task instance is failed"
    world.daemon(callback.exec_id, phase="EXITED", attempt=1, exit_code=0)
    other.beat()
    assert other.callback_state() == "success"


def test_what_the_dead_left_is_found_without_reading_what_has_ended(world: World, postgres_only: None) -> None:
    engine = settings.get_engine()  # type: ignore[no-untyped-call]  # Airflow's
    fill(engine, Crowd(finished=20_000, live=100, pending=100, deployment="test", owner=1_000_000))
    sql("UPDATE ecs_launch_attempt SET told = 0 WHERE exec_id LIKE 'f00001000%'")
    with transactions.begin() as connection, recorded(engine) as statements:
        found = world.executor._parts._upkeep._airflow.abandoned(connection, "test", None)
    unacknowledged = 20
    assert len(found) == 200 + unacknowledged + 10

    for statement, parameters in statements.items():
        for generic in (False, True):
            with engine.connect() as connection:
                plan = explained(connection, statement, parameters, generic=generic)
            assert plan.full_scans == []
            assert plan.rows_read <= 2 * len(found)


def test_the_workloads_of_a_scheduler_that_lives_are_left_alone(world: World) -> None:
    world.queued()
    world.queued_callback()

    other = World()
    other.beat()
    other.beat()

    assert [w.owner_job_id for w in other.rows()] == [world.job.id] * 2
    assert other.running == set()


def test_what_another_scheduler_adopts_leaves_this_one(world: World) -> None:
    (w,) = world.queued()
    other = World()
    world.set_ti(w, queued_by_job_id=other.job.id)

    world.beat()
    world.beat()

    assert world.row(w.exec_id).owner_job_id == other.job.id
    assert world.running == set()
    other.beat()
    assert other.executor.slots_occupied == 1


class TestStuckInQueued:
    """Airflow revokes what is QUEUED for too long and queues it again: the same task instance, under a new id."""

    @pytest.fixture
    def stuck(self, world: World) -> Workload:
        (w,) = world.queued()
        world.daemon(w.exec_id, phase="STARTED", attempt=1)
        world.set_ti(w, queued_dttm=NOW - timedelta(hours=1))
        return w

    def test_its_container_is_stopped_in_the_same_transaction(self, world: World, stuck: Workload) -> None:
        world.runner._handle_tasks_stuck_in_queued()

        row = world.row(stuck.exec_id)
        assert (row.desired, row.desired_reason) == ("STOP", "it was QUEUED for longer than task_queued_timeout")
        assert world.ti(stuck)["state"] == "scheduled"
        assert world.running == set()

    def test_neither_happens_without_the_other(
        self, world: World, stuck: Workload, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(world.runner, "_maybe_requeue_stuck_ti", _failing)
        with pytest.raises(RuntimeError, match="planted"):
            world.runner._handle_tasks_stuck_in_queued()

        assert world.row(stuck.exec_id).desired == "RUN"
        assert world.ti(stuck)["state"] == "queued"

    def test_it_is_another_workload_when_it_is_queued_again(self, world: World, stuck: Workload) -> None:
        world.runner._handle_tasks_stuck_in_queued()
        assert world.queue() == 1
        world.daemon(stuck.exec_id, phase="EXITED", exit_code=143)

        world.beat()

        (new,) = [w for w in world.rows() if w.exec_id != stuck.exec_id]
        assert (new.ti_id, new.phase, new.desired) == (stuck.ti_id, Phase.PENDING, "RUN")
        assert world.ti(stuck)["state"] == "queued"
        assert world.executor.slots_occupied == 1

    def test_an_error_of_ours_does_not_keep_airflow_from_it(
        self, world: World, stuck: Workload, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(shim, "want_stop", lambda conn, *_: conn.exec_driver_sql("SELECT no_such_column"))
            world.runner._handle_tasks_stuck_in_queued()
        assert world.ti(stuck)["state"] == "scheduled"
        assert world.row(stuck.exec_id).desired == "RUN"

        world.beat()
        world.beat()

        row = world.row(stuck.exec_id)
        assert (row.desired, row.desired_reason) == ("STOP", "the task instance is scheduled")

    def test_what_was_not_even_written_is_forgotten(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        world.schedule()
        with monkeypatch.context() as patch:
            patch.setattr(shim, "insert", _failing)
            world.queue()
            world.beat()
            world.beat()
            assert world.executor.slots_occupied == 1
            sql("UPDATE task_instance SET queued_dttm = '2026-01-01 00:00:00+00:00'")
            world.runner._handle_tasks_stuck_in_queued()

        world.beat()

        assert world.rows() == []
        assert world.executor.slots_occupied == 0


@pytest.mark.parametrize("ended_meanwhile", [True, False])
def test_a_callback_outlives_its_scheduler(world: World, ended_meanwhile: bool) -> None:
    w = world.queued_callback()
    world.daemon(w.exec_id, phase="RUNNING", attempt=1)
    world.die()
    if ended_meanwhile:
        world.daemon(w.exec_id, phase="EXITED", exit_code=0)
    other = Scheduler()
    for _ in range(3):
        other.beat()
    assert world.row(w.exec_id).owner_job_id == other.job.id
    if not ended_meanwhile:
        assert world.callback_state() == "queued"  # Airflow is not told that a callback runs
        world.daemon(w.exec_id, phase="EXITED", exit_code=0)
        other.beat()
    assert world.callback_state() == "success"
    other.beat()
    row = world.row(w.exec_id)
    assert row.acked_version == row.version
