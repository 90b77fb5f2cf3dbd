"""Whatever fails, no method raises: an exception would end Airflow's scheduler."""

# Much of Airflow is not typed.
# mypy: allow-untyped-calls

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow import settings
from airflow._shared.observability.metrics import stats
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from sqlalchemy import create_engine, select, text

from reconciler.airflow import views
from reconciler.airflow.enqueue import savepoint
from reconciler.config import ConfigError
from reconciler.store import shim
from tests.shim.inside.world import World, sql

if TYPE_CHECKING:
    from collections.abc import Callable

STORE = [name for name in shim.__all__ if name.islower()]
SIDE = ["task_instances", "callbacks", "in_doubt", "give_back", "abandoned", "emit", "hold", "release"]


def broken(*_args: Any, **_kwargs: Any) -> Any:
    raise RuntimeError("planted")


def call_everything(world: World) -> None:
    """Every method that Airflow calls, with work for each of them to do."""
    executor = world.executor
    executor.queue_workload("not a workload", None)
    executor.heartbeat()
    executor.sync()
    world.process_events()
    with create_session() as session:
        tis = list(session.scalars(select(TaskInstance)))
        for ti in tis:
            executor.has_task(ti)
            executor.revoke_task(ti=ti)
        executor.try_adopt_task_instances(tis)
        executor.try_adopt_task_instances([])
    executor.get_event_buffer()
    executor.debug_dump()
    assert executor.slots_available >= 0
    assert executor.slots_occupied >= 0
    executor.terminate()
    executor.end()


def busy(world: World) -> None:
    """Something to deliver, to withdraw, to give back, to write late, and a callback that runs."""
    callback = world.queued_callback()
    world.daemon(callback.exec_id, phase="RUNNING", attempt=1)
    world.schedule(5)
    world.queue()
    failed, exited, stale, waiting, ended = [w for w in world.rows() if w.exec_id != callback.exec_id]
    world.daemon(failed.exec_id, phase="FAILED_START", reason="no such image")
    world.daemon(exited.exec_id, phase="EXITED", attempt=1, exit_code=1)
    world.set_ti(stale, state="failed")
    world.overwrite(waiting.exec_id, created_at=failed.created_at.replace(year=2020))  # type: ignore[union-attr]  # read back
    world.set_ti(ended, state="success")
    world.daemon(ended.exec_id, phase="EXITED", attempt=1, exit_code=0)
    world.executor._parts.enqueue.late[stale.ti_id] = stale
    world.executor._parts._upkeep._suspects = {stale.exec_id}
    world.executor._parts._upkeep._take_over_due._last = None


@pytest.mark.parametrize("name", STORE)
def test_no_method_raises_when_the_store_fails(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    busy(world)
    with monkeypatch.context() as patch:
        patch.setattr(shim, name, broken)
        world.schedule()
        world.queue()
        call_everything(world)

    world.beat()
    each_time = {"heartbeat", "sync", "upkeep", "delivery", "reading the demand"}
    assert not each_time & world.executor.trouble.in_a_row.keys()
    assert world.executor._parts.enqueue.late == {}


@pytest.mark.parametrize("name", SIDE)
def test_no_method_raises_when_airflow_tables_fail(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    busy(world)
    monkeypatch.setattr(views.SchedulerSide, name, broken)

    call_everything(world)


def test_no_method_raises_when_the_database_is_gone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    busy(world)
    gone = create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none", connect_args={"connect_timeout": 1})
    with monkeypatch.context() as patch:
        patch.setattr(settings, "get_engine", lambda: gone)
        for _ in range(3):
            world.executor.heartbeat()
            world.executor.end()
            world.executor.debug_dump()
        assert world.executor.trouble.in_a_row["delivery"] == 3
    gone.dispose()

    world.beat()
    assert "delivery" not in world.executor.trouble.in_a_row


def test_no_method_raises_when_workloads_can_not_be_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.schedule(2)
    monkeypatch.setattr("reconciler.airflow.parts.to_row", broken)

    assert world.queue() == 2

    assert world.rows() == []
    assert world.executor.trouble.in_a_row["queue_workload"] == 2


def test_an_executor_that_was_not_started_does_nothing_and_raises_nothing(world: World) -> None:
    world.queued()
    idle = World()
    idle.executor._parts = None

    call_everything(idle)


def test_an_error_that_comes_back_is_not_logged_each_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(world.executor.trouble, "_log", Log(written.append))
    with monkeypatch.context() as patch:
        patch.setattr(shim, "undelivered", broken)
        for _ in range(50):
            world.executor.heartbeat()
    world.executor.heartbeat()

    assert written == [
        "delivery failed; the scheduler goes on and it will be tried again",
        "delivery works again, after 50 failures",
    ]


class Log:
    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def info(self, event: str, *args: Any) -> None:
        self._write(event % args)

    def error(self, event: str, *args: Any, exc_info: Any) -> None:
        assert isinstance(exc_info, RuntimeError)
        self._write(event % args)


def test_errors_are_counted_for_airflows_metrics(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[tuple[str, Any]] = []
    monkeypatch.setattr(getattr(stats, "Stats", stats), "incr", lambda name, tags: counted.append((name, tags)))
    monkeypatch.setattr(shim, "undelivered", broken)

    world.executor.sync()

    assert counted == [("ecs_reconciler.executor_errors", {"what": "delivery"})]


def test_the_scheduler_can_be_stopped_in_the_middle_of_a_heartbeat(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow's handler of SIGTERM raises SystemExit wherever the scheduler is."""

    def terminated(*_args: Any) -> None:
        raise SystemExit(0)

    monkeypatch.setattr(shim, "undelivered", terminated)
    with pytest.raises(SystemExit):
        world.executor.heartbeat()


def test_a_start_with_wrong_options_names_all_of_them(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW__ECS_RECONCILER__DEPLOYMENT")
    monkeypatch.setenv("AIRFLOW__ECS_RECONCILER__BACKLOG", "many")

    with pytest.raises(ConfigError) as error:
        type(world.executor)().start()

    assert [problem.split(":")[0] for problem in error.value.problems] == [
        "[ecs_reconciler] deployment is not set",
        "[ecs_reconciler] backlog",
    ]


def test_a_start_on_another_database_names_the_way_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    mysql = create_engine(
        "mysql+pymysql://nobody@127.0.0.1:1/none", module=type("Driver", (), {"paramstyle": "format"})
    )
    monkeypatch.setattr(settings, "get_engine", lambda: mysql)

    with pytest.raises(ConfigError, match=r"is a mysql database: .* in PostgreSQL or SQLite"):
        type(world.executor)().start()


def test_a_start_without_our_tables_is_possible(world: World) -> None:
    """`airflow db migrate` may still be at work, and other executors of this scheduler have nothing to do with it."""
    sql("ALTER TABLE ecs_workload RENAME TO ecs_workload_gone")
    try:
        world.executor.start()
        world.executor.heartbeat()
    finally:
        sql("ALTER TABLE ecs_workload_gone RENAME TO ecs_workload")


@pytest.mark.usefixtures("postgres_only")
def test_whoever_alters_our_tables_does_not_hold_up_the_scheduler(world: World) -> None:
    """Somebody holds our table for as long as we look. Without a limit this would wait until the suite's own."""
    world.schedule(3)
    with settings.get_engine().connect() as other, other.begin():
        other.execute(text("LOCK TABLE ecs_workload IN ACCESS EXCLUSIVE MODE"))
        assert world.queue() == 3
        world.executor.heartbeat()
        states = {row["state"] for row in sql("SELECT state FROM task_instance")}
        late = len(world.executor._parts.enqueue.late)
    assert (states, late) == ({"queued"}, 3)

    world.beat()

    # None was rejected for it.
    assert [w.phase for w in world.rows()] == ["PENDING"] * 3
    assert world.executor._parts.enqueue.late == {}


@pytest.mark.usefixtures("postgres_only")
@pytest.mark.parametrize("before", ["0", "7s"])
def test_the_schedulers_transaction_keeps_its_own_patience(world: World, before: str) -> None:
    def patience(connection: Any) -> Any:
        return connection.execute(text("SHOW lock_timeout")).scalar()

    with create_session() as session:
        session.execute(text(f"SET LOCAL lock_timeout = '{before}'"))
        with savepoint(session) as connection:
            assert patience(connection) == "1s"
        assert patience(session) == before
        with pytest.raises(RuntimeError, match="planted"), savepoint(session):
            broken()
        assert patience(session) == before


def test_what_a_heartbeat_costs_goes_into_airflows_metrics(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, float] = {}
    monkeypatch.setattr(getattr(stats, "Stats", stats), "timing", told.__setitem__)
    world.schedule(1)
    world.queue()
    world.executor.heartbeat()
    assert told["ecs_reconciler.heartbeat_duration"] > 0
    assert told["ecs_reconciler.queue_duration"] > 0


def test_a_backend_that_fails_to_take_the_time_is_no_reason_not_to_work(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(getattr(stats, "Stats", stats), "timing", broken)
    world.schedule(1)
    world.queue()
    world.executor.heartbeat()
    assert sql("SELECT count(*) AS found FROM ecs_workload") == [{"found": 1}]
