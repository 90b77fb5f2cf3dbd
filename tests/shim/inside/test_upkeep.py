"""What the executor does from time to time: withdraw, give back, heal, and pass on how much room there is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow import settings
from airflow.utils.session import create_session
from sqlalchemy import event

from reconciler.airflow import parts, transactions
from reconciler.core.phase import Phase
from tests.shim.inside.world import sql

if TYPE_CHECKING:
    from tests.shim.inside.world import World

NOW = datetime.now(UTC)
LONG_AGO = NOW - timedelta(seconds=201)


@pytest.mark.parametrize("state", ["failed", "success", "scheduled", "deferred", None])
def test_what_no_task_instance_wants_any_more_is_withdrawn_when_two_looks_agree(
    world: World, state: str | None
) -> None:
    (w,) = world.queued()
    world.daemon(w.exec_id, phase="RUNNING", attempt=1)
    world.set_ti(w, state=state)

    world.beat()
    assert world.wanted(w) == ("RUN", None)

    world.beat()
    assert world.wanted(w) == ("STOP", f"the task instance is {state or 'not scheduled'}")


def test_a_look_between_two_transactions_of_airflow_does_no_harm(world: World) -> None:
    (w,) = world.queued()
    world.set_ti(w, state="scheduled")
    world.beat()
    world.set_ti(w, state="queued")
    world.beat()
    world.set_ti(w, state="scheduled")
    world.beat()

    assert world.wanted(w) == ("RUN", None)


@pytest.mark.parametrize("state", ["queued", "running"])
def test_what_is_active_is_left_alone(world: World, state: str) -> None:
    (w,) = world.queued()
    world.set_ti(w, state=state)

    world.beat()
    world.beat()

    assert world.wanted(w) == ("RUN", None)
    assert world.executor.slots_occupied == 1


@pytest.mark.parametrize(("state", "after"), [("running", "restarting"), ("queued", "not scheduled")])
def test_what_a_user_clears_is_withdrawn(world: World, state: str, after: str) -> None:
    (w,) = world.queued()
    world.set_ti(w, state=state)
    world.clear()

    world.beat()
    world.beat()

    assert world.wanted(w) == ("STOP", f"the task instance was cleared, and is {after}")


def test_what_was_queued_again_is_withdrawn_and_the_new_one_stays(world: World) -> None:
    (old,) = world.queued()
    world.set_ti(old, state="scheduled")
    world.queue()
    (new,) = [w for w in world.rows() if w.exec_id != old.exec_id]

    world.beat()
    world.beat()

    assert world.wanted(old) == ("STOP", f"the task instance was queued again as {new.exec_id}")
    assert world.wanted(new) == ("RUN", None)
    assert world.executor.slots_occupied == 1


def test_a_workload_without_a_task_instance_is_withdrawn(world: World) -> None:
    (w,) = world.queued()
    sql("DELETE FROM task_instance")

    world.beat()
    world.beat()

    assert world.wanted(w) == ("STOP", "the task instance is gone")


@pytest.mark.parametrize(("phase", "desired"), [("PENDING", "STOP"), ("STARTED", "STOP"), ("RUNNING", "RUN")])
def test_the_second_look_comes_soon_for_what_has_not_begun(
    world: World, monkeypatch: pytest.MonkeyPatch, phase: str, desired: str
) -> None:
    """What runs ends itself; what waits would be launched in between."""
    monkeypatch.setattr(parts, "UPKEEP_EVERY", timedelta(hours=1))
    monkeypatch.setattr(parts, "SECOND_LOOK_EVERY", timedelta(0))
    beside = type(world)()
    (w,) = beside.queued()
    beside.daemon(w.exec_id, phase=phase, attempt=1)
    beside.set_ti(w, state="failed")
    beside.beat()
    assert beside.wanted(w) == ("RUN", None)
    beside.beat()
    assert beside.wanted(w)[0] == desired


class TestShedding:
    """What can not be launched goes back to Airflow before Airflow calls it stuck in QUEUED."""

    def test_a_workload_that_waits_too_long_is_given_back_without_a_trace(self, world: World) -> None:
        old, fresh = world.queued(2)
        world.overwrite(old.exec_id, created_at=LONG_AGO)

        world.beat()

        row, ti = world.row(old.exec_id), world.ti(old)
        assert (row.phase, row.acked_version) == (Phase.CANCELLED, row.version)
        assert (ti["state"], ti["queued_by_job_id"], ti["queued_dttm"]) == ("scheduled", None, None)
        assert (str(ti["id"]), ti["try_number"]) == (old.ti_id, 1)
        assert (world.row(fresh.exec_id).phase, world.ti(fresh)["state"]) == (Phase.PENDING, "queued")
        assert world.executor.slots_occupied == 1
        assert world.audit() == []

    def test_it_is_queued_again_under_another_id_when_there_is_room(self, world: World) -> None:
        (w,) = world.queued()
        world.overwrite(w.exec_id, created_at=LONG_AGO)
        world.beat()

        assert world.queue() == 1

        assert [row.phase for row in world.rows()] == [Phase.CANCELLED, Phase.PENDING]
        assert world.ti(w)["state"] == "queued"
        assert world.executor.slots_occupied == 1

    @pytest.mark.parametrize(
        "facts",
        [{"phase": "LAUNCHING", "attempt": 1}, {"start_failures": 1, "attempt": 1}, {"kind": "callback"}],
        ids=["it may have a container", "it failed to start before", "a callback"],
    )
    def test_all_else_stays(self, world: World, facts: dict[str, Any]) -> None:
        (w,) = world.queued()
        world.overwrite(w.exec_id, created_at=LONG_AGO, **facts)

        world.beat()

        assert world.row(w.exec_id).phase is not Phase.CANCELLED
        assert world.ti(w)["state"] == "queued"

    @pytest.mark.parametrize("change", [{"state": "failed"}, {"external_executor_id": "another"}])
    def test_a_task_instance_that_has_moved_on_is_not_touched(self, world: World, change: dict[str, Any]) -> None:
        (w,) = world.queued()
        world.overwrite(w.exec_id, created_at=LONG_AGO)
        world.set_ti(w, **change)
        before = world.ti(w)

        world.beat()

        assert world.ti(w) == before
        assert world.row(w.exec_id).phase is Phase.CANCELLED

    def test_a_task_instance_that_an_earlier_container_runs_keeps_its_workload(self, world: World) -> None:
        (w,) = world.queued()
        world.overwrite(w.exec_id, created_at=LONG_AGO)
        world.set_ti(w, state="running")

        world.beat()

        assert world.row(w.exec_id).phase is Phase.PENDING
        assert world.executor.slots_occupied == 1

    def test_neither_happens_without_the_other(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        (w,) = world.queued()
        world.overwrite(w.exec_id, created_at=LONG_AGO)

        def failing(*_: Any) -> None:
            raise RuntimeError("planted")

        monkeypatch.setattr("reconciler.airflow.views.SchedulerSide.give_back", failing)
        world.beat()

        assert (world.row(w.exec_id).phase, world.ti(w)["state"]) == (Phase.PENDING, "queued")


class TestDraining:
    """An operator drains all queues: nothing may be left that waits."""

    def hold(self, queue: str, mode: str) -> None:
        columns = "deployment, queue, mode, held_by, since"
        sql(f"INSERT INTO ecs_hold ({columns}) VALUES ('test', '{queue}', '{mode}', 'me', '2026-01-01 00:00:00')")

    def test_what_waits_goes_back_at_once_and_nothing_is_queued(self, world: World) -> None:
        failed, waits = world.queued(2)
        world.overwrite(failed.exec_id, start_failures=1, attempt=1)
        self.hold("", "draining")

        world.beat()

        assert [world.row(w.exec_id).phase for w in (failed, waits)] == [Phase.CANCELLED, Phase.CANCELLED]
        assert [world.ti(w)["state"] for w in (failed, waits)] == ["scheduled", "scheduled"]
        assert world.executor.slots_available == 0
        assert world.queue() == 0

    @pytest.mark.parametrize(("queue", "mode"), [("", "paused"), ("default", "draining")])
    def test_a_pause_and_a_drain_of_one_queue_leave_it_to_wait(self, world: World, queue: str, mode: str) -> None:
        (w,) = world.queued()
        self.hold(queue, mode)

        world.beat()

        assert world.row(w.exec_id).phase is Phase.PENDING
        assert (world.executor.slots_available == 0) == (queue == "")


class TestSlots:
    """Airflow asks each executor for its room before it queues, and once more for each task."""

    def test_airflow_queues_no_more_than_the_quota_has_room_for(self, world: World) -> None:
        world.executor._parts.slots._max_running_tasks = 5
        world.executor._parts.slots._backlog = 0
        world.beat()
        world.schedule(8)

        assert world.queue() == 5

        world.beat()
        assert world.executor.slots_available == 0
        assert world.executor.slots_occupied == 5

    def test_room_is_taken_between_two_heartbeats(self, world: World) -> None:
        before = world.executor.slots_available

        world.queued(2)

        assert world.executor.slots_available == before - 2

    def test_nothing_is_queued_while_the_daemon_is_dead(self, world: World) -> None:
        world.daemon_holds_its_lease(for_seconds=-1)
        world.beat()
        world.schedule(2)

        assert world.executor.slots_available == 0
        with create_session() as session:
            assert world.runner._do_scheduling(session) == 0

    def test_parallelism_is_honoured_as_well(self, world: World) -> None:
        world.executor.parallelism = 3
        world.queued(2)
        world.beat()

        assert world.executor.slots_available == 1

    def test_an_executor_that_was_not_started_has_no_room(self, world: World) -> None:
        assert type(world.executor)().slots_available == 0


def test_the_books_heal_from_the_table(world: World) -> None:
    (w,) = world.queued()
    true = set(world.running)
    world.executor.running = {"a key that leaked"}

    world.beat()

    assert world.running == true
    world.set_ti(w, state="success")
    world.daemon(w.exec_id, phase="EXITED", attempt=1, exit_code=0)
    world.beat()
    assert world.running == set()


def test_rows_are_compared_with_task_instances_without_a_join(world: World) -> None:
    """With statistics from before a burst, PostgreSQL would compare each of a thousand rows with a thousand of them."""
    rows = world.queued(3)
    world.set_ti(rows[0], state="failed")
    parts = world.executor._parts
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    engine = settings.get_engine()  # type: ignore[no-untyped-call]  # Airflow's
    event.listen(engine, "before_cursor_execute", note)
    try:
        with transactions.begin() as connection:
            in_doubt = parts._upkeep._airflow.in_doubt(connection, parts._owner, [w.exec_id for w in rows])
    finally:
        event.remove(engine, "before_cursor_execute", note)
    assert in_doubt == {rows[0].exec_id}
    assert any("task_instance" in statement for statement in statements)
    assert not [s for s in statements if "task_instance" in s and "ecs_workload" in s]
