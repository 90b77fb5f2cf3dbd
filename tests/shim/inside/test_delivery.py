"""What the executor tells Airflow, and what Airflow makes of it."""

# Much of Airflow is not typed.
# mypy: allow-untyped-calls

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow import settings
from sqlalchemy import text

from reconciler.core.phase import Phase
from tests.shim.inside.world import sql

if TYPE_CHECKING:
    from reconciler.core.task import Workload
    from tests.shim.inside.world import World

NOW = datetime.now(UTC)


def exited(world: World, w: Workload, **facts: Any) -> None:
    """The container has ended; of its own accord unless the facts say otherwise."""
    values = {"attempt": 1, "exit_code": 1, "reason": "EssentialContainerExited", "stopped_at": datetime.now(UTC)}
    world.daemon(w.exec_id, phase="EXITED", **{**values, **facts})


def acknowledged(world: World, w: Workload) -> bool:
    row = world.row(w.exec_id)
    return row.acked_version == row.version


@pytest.mark.parametrize("phase", ["FAILED_START", "LOST", "CANCELLED"])
def test_a_task_that_never_ran_is_failed_and_its_user_reads_why(world: World, phase: str) -> None:
    (w,) = world.queued()
    world.daemon(w.exec_id, phase=phase, attempt=3, reason="CannotPullContainerError: no such image")

    world.beat()

    assert world.ti(w)["state"] == "failed"
    assert any("after 3 attempts: CannotPullContainerError: no such image" in extra for extra in world.audit())
    assert world.running == set()
    assert not acknowledged(world, w)  # said, and not yet seen to have been heard
    world.beat()
    assert acknowledged(world, w)


def test_a_running_task_whose_container_died_is_failed(world: World) -> None:
    (w,) = world.queued()
    world.set_ti(w, state="running", last_heartbeat_at=NOW - timedelta(seconds=30))
    exited(world, w, exit_code=137, reason="OutOfMemoryError", stopped_at=NOW - timedelta(seconds=10))

    world.beat()

    assert world.ti(w)["state"] == "failed"
    assert any("exit code 137: OutOfMemoryError" in extra for extra in world.audit())


def test_a_task_with_a_heartbeat_from_after_the_end_of_its_container_is_left_alone(world: World) -> None:
    (w,) = world.queued()
    world.set_ti(w, state="running", last_heartbeat_at=NOW + timedelta(seconds=5))
    exited(world, w, stopped_at=NOW)

    world.beat()

    assert world.ti(w)["state"] == "running"
    assert not acknowledged(world, w)


def test_a_task_that_was_cleared_while_it_ran_is_scheduled_again_when_its_container_has_ended(world: World) -> None:
    (w,) = world.queued()
    cleared = "00000000-0000-7000-8000-000000000001"
    world.set_ti(w, state="restarting")
    sql("UPDATE task_instance SET id = :id WHERE state = 'restarting'", id=_as_stored(cleared))
    exited(world, w, exit_code=0)

    world.beat()

    ti = world.ti(w)
    assert (ti["state"], ti["max_tries"], str(ti["id"])) == (None, 1, cleared)
    world.beat()
    assert acknowledged(world, w)


def _as_stored(ti_id: str) -> str:
    return ti_id if settings.get_engine().dialect.name == "postgresql" else ti_id.replace("-", "")


@pytest.mark.parametrize(
    "state", ["success", "failed", "skipped", "up_for_retry", "up_for_reschedule", "deferred", "scheduled", None]
)
def test_a_task_that_has_told_its_own_outcome_is_not_told_another(world: World, state: str | None) -> None:
    (w,) = world.queued()
    world.set_ti(w, state=state)
    exited(world, w, exit_code=0)

    world.beat()

    assert world.ti(w)["state"] == state
    assert acknowledged(world, w)
    assert world.running == set()
    assert not any("state mismatch" in row["event"] for row in sql("SELECT event FROM log"))


def test_the_outcome_of_a_task_instance_that_is_gone_is_acknowledged(world: World) -> None:
    (w,) = world.queued()
    sql("DELETE FROM task_instance")
    exited(world, w)

    world.beat()

    assert acknowledged(world, w)
    assert world.running == set()


def test_a_container_that_airflow_never_admitted_is_refused_and_launched_again(world: World) -> None:
    (w,) = world.queued()
    exited(world, w)

    world.beat()
    world.beat()

    assert world.row(w.exec_id).refused
    assert world.ti(w)["state"] == "queued"
    assert world.executor.slots_occupied == 0
    world.daemon(w.exec_id, phase="PENDING", refused=False, start_failures=1)
    world.beat()
    assert world.executor.slots_occupied == 1


def test_a_container_that_was_never_admitted_fails_its_task_when_the_attempts_are_used_up(world: World) -> None:
    (w,) = world.queued()
    exited(world, w, start_failures=2, attempt=3)

    world.beat()

    assert world.ti(w)["state"] == "failed"


def test_the_end_of_an_earlier_queueing_does_not_touch_the_present_one(world: World) -> None:
    (old,) = world.queued()
    world.set_ti(old, state="scheduled")
    world.queue()
    exited(world, old)

    world.beat()

    assert world.ti(old)["state"] == "queued"
    assert acknowledged(world, old)
    assert world.executor.slots_occupied == 1


def test_an_open_workload_of_an_earlier_queueing_does_not_veto_the_event_of_the_present_one(world: World) -> None:
    (old,) = world.queued()
    world.daemon(old.exec_id, phase="STOPPING", attempt=1)
    world.set_ti(old, state="scheduled")
    world.queue()
    (new,) = [w for w in world.rows() if w.exec_id != old.exec_id]
    world.daemon(new.exec_id, phase="FAILED_START", reason="no room")

    world.beat()

    assert world.ti(old)["state"] == "failed"


@pytest.mark.usefixtures("postgres_only")
def test_an_event_that_airflow_drops_for_a_locked_row_is_told_again(world: World) -> None:
    (w,) = world.queued()
    world.daemon(w.exec_id, phase="FAILED_START", reason="no such image")

    with settings.get_engine().connect() as other, other.begin():
        other.execute(text("SELECT id FROM task_instance FOR UPDATE"))
        world.beat()
    assert world.ti(w)["state"] == "queued"
    assert not acknowledged(world, w)

    world.beat()
    assert world.ti(w)["state"] == "failed"


def test_the_outcome_goes_to_the_scheduler_that_has_the_task_by_now(world: World) -> None:
    (w,) = world.queued()
    sql("INSERT INTO job (id, job_type, state) VALUES (4711, 'SchedulerJob', 'running')")
    world.set_ti(w, queued_by_job_id=4711)
    world.daemon(w.exec_id, phase="FAILED_START", reason="no such image")

    world.beat()

    assert world.row(w.exec_id).owner_job_id == 4711
    assert not acknowledged(world, w)
    assert world.ti(w)["state"] == "queued"


class TestCallbacks:
    """A deadline's callback is no task instance: here the exit code is the outcome."""

    def test_a_callback_is_queued_once_and_stays_so_while_it_runs(self, world: World) -> None:
        """Airflow would write RUNNING over its outcome, had the scheduler been paused with that event in its hands."""
        w = world.queued_callback()
        assert (w.kind, w.phase, world.callback_state()) == ("callback", Phase.PENDING, "queued")
        assert world.executor.slots_occupied == 1
        world.beat()
        assert world.callback_state() == "queued"

        world.daemon(w.exec_id, phase="RUNNING", attempt=1)
        world.beat()

        assert world.callback_state() == "queued"
        assert len(world.rows()) == 1

    @pytest.mark.parametrize(("exit_code", "state"), [(0, "success"), (1, "failed"), (None, "failed")])
    def test_its_exit_code_decides(self, world: World, exit_code: int | None, state: str) -> None:
        w = world.queued_callback()
        exited(world, w, exit_code=exit_code)

        world.beat()
        assert world.callback_state() == state
        assert world.executor.slots_occupied == 0
        world.beat()
        assert acknowledged(world, w)

    def test_the_outcome_of_one_that_is_gone_is_acknowledged(self, world: World) -> None:
        w = world.queued_callback()
        sql("DELETE FROM callback")
        exited(world, w)

        world.beat()

        assert acknowledged(world, w)

    def test_one_that_is_gone_is_stopped(self, world: World) -> None:
        w = world.queued_callback()
        world.daemon(w.exec_id, phase="RUNNING", attempt=1)
        sql("DELETE FROM callback")

        world.beat()
        assert world.row(w.exec_id).desired == "RUN"
        world.beat()

        row = world.row(w.exec_id)
        assert (row.desired, row.desired_reason) == ("STOP", "the callback is gone")
