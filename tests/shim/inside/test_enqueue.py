"""Workloads reach the table in the transaction in which Airflow queues them, or soon after."""

# Much of Airflow is not typed.
# mypy: allow-untyped-calls

from __future__ import annotations

import json
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import pytest
from airflow import settings
from airflow.jobs.job import Job
from airflow.utils.session import create_session
from airflow.utils.sqlalchemy import prohibit_commit
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError

from reconciler.core.phase import Phase
from reconciler.store import shim
from tests.shim.inside.world import World, new_session, sql

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def statements() -> Iterator[list[tuple[str, int]]]:
    """Every statement that is sent, and for how many rows at once."""
    sent: list[tuple[str, int]] = []

    def note(_conn: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        sent.append((statement, len(parameters) if many else 1))

    engine = settings.get_engine()
    event.listen(engine, "before_cursor_execute", note)
    yield sent
    event.remove(engine, "before_cursor_execute", note)


@pytest.fixture
def table_is_gone(world: World) -> Iterator[ExitStack]:
    """Our table is not there until the stack is closed."""
    sql("ALTER TABLE ecs_workload RENAME TO ecs_workload_gone")
    with ExitStack() as stack:
        stack.callback(sql, "ALTER TABLE ecs_workload_gone RENAME TO ecs_workload")
        yield stack


def test_a_row_has_the_id_that_airflow_commits_with_queued(world: World) -> None:
    world.schedule(3)

    assert world.queue() == 3

    rows = world.rows()
    assert len(rows) == 3
    for row in rows:
        ti = world.ti(row)
        assert (row.exec_id, row.ti_id) == (ti["external_executor_id"], str(ti["id"]))
        assert (ti["state"], row.phase, row.owner_job_id) == ("queued", Phase.PENDING, world.job.id)
        assert (row.key.dag_id, row.key.task_id, row.key.try_number, row.queue) == ("etl", "work", 1, "default")
        assert row.spec is not None
        assert json.loads(row.spec.workload)["ti"]["id"] == row.ti_id
    assert len(world.running) == 3
    assert world.executor.slots_occupied == 3


def test_no_row_holds_a_token_even_if_airflow_made_one(world: World) -> None:
    generator = type("Generator", (), {"generate": lambda *_args, **_kwargs: "the.secret.token"})()
    world.executor.jwt_generator = generator

    world.queued(executor_config={"tags": [{"key": "team", "value": "blue"}]})

    assert "the.secret.token" not in repr(sql("SELECT * FROM ecs_workload"))
    (row,) = world.rows()
    assert row.spec is not None
    assert "token" not in json.loads(row.spec.workload)
    assert row.spec.executor_config == {"tags": [{"key": "team", "value": "blue"}]}


def test_what_airflow_rolls_back_was_never_queued(world: World) -> None:
    world.schedule(2)

    with suppress(ZeroDivisionError), create_session() as session, prohibit_commit(session):
        assert world.runner._critical_section_enqueue_task_instances(session) == 2
        _ = 1 / 0

    assert world.rows() == []
    assert world.running == set()
    assert world.queue() == 2
    assert len(world.rows()) == len(world.running) == 2


def test_a_session_that_is_closed_without_a_commit_leaves_nothing_behind_for_the_next_one(world: World) -> None:
    world.schedule(2)
    session = new_session()
    assert world.runner._critical_section_enqueue_task_instances(session) == 2
    session.close()

    world.schedule(1)
    assert world.queue() == 3
    assert len(world.rows()) == 3


def test_what_fails_between_our_write_and_the_commit_takes_our_write_with_it(world: World) -> None:
    """Airflow's pending changes are flushed after listeners have run."""
    world.schedule()
    session = new_session()
    world.runner._critical_section_enqueue_task_instances(session)
    session.add(Job(id=world.job.id, job_type="a second one with this id"))

    with pytest.raises(IntegrityError):
        session.commit()
    session.close()

    assert world.rows() == []
    assert world.running == set()
    assert sql("SELECT state FROM task_instance") == [{"state": "scheduled"}]


def test_a_write_that_begins_the_transaction_is_still_a_part_of_it(world: World) -> None:
    """As with callbacks, where nothing of Airflow's has been written before listeners run."""
    session = new_session()
    (w,) = world.queued()
    sql("DELETE FROM ecs_workload")
    world.executor._parts.enqueue.add(session, w)
    session.add(Job(id=world.job.id, job_type="a second one with this id"))

    with pytest.raises(IntegrityError):
        session.commit()
    session.close()

    assert world.rows() == []


def test_a_savepoint_of_the_session_is_neither_its_commit_nor_its_rollback(world: World) -> None:
    world.schedule(2)

    with create_session() as session:
        world.runner._critical_section_enqueue_task_instances(session)
        with session.begin_nested():
            pass
        nested = session.begin_nested()
        nested.rollback()
        assert world.running == set()

    assert len(world.rows()) == len(world.running) == 2


def test_without_our_table_the_scheduler_lives_and_the_workloads_arrive_later(
    world: World, table_is_gone: ExitStack
) -> None:
    world.schedule(2)

    assert world.queue() == 2
    world.beat()

    assert [ti["state"] for ti in sql("SELECT state FROM task_instance")] == ["queued", "queued"]
    assert world.executor.slots_occupied == 2
    table_is_gone.close()
    assert world.rows() == []
    world.beat()
    assert {w.exec_id for w in world.rows()} == {
        row["external_executor_id"] for row in sql("SELECT external_executor_id FROM task_instance")
    }
    assert world.executor.slots_occupied == 2
    world.beat()
    assert len(world.rows()) == 2


def test_a_commit_whose_fate_is_unknown_is_repeated_without_a_second_row(world: World) -> None:
    (row,) = world.queued()
    world.daemon(row.exec_id, phase="LAUNCHING", attempt=1)

    world.executor._parts.enqueue.late[row.ti_id] = row
    world.beat()

    (found,) = world.rows()
    assert (found.exec_id, found.phase, found.attempt) == (row.exec_id, Phase.LAUNCHING, 1)
    assert world.executor._parts.enqueue.late == {}


def test_a_workload_that_can_not_be_written_fails_alone_and_its_user_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = str(world.schedule(3)[1])
    insert = shim.insert

    def refusing(conn: Any, new: Any) -> None:
        if any(w.ti_id == poison and w.spec for w in new):
            raise RuntimeError("can not be stored")
        insert(conn, new)

    monkeypatch.setattr(shim, "insert", refusing)
    assert world.queue() == 3
    assert world.rows() == []

    world.beat()

    rows = {w.ti_id: w for w in world.rows()}
    assert len(rows) == 3
    assert rows.pop(poison).phase is Phase.FAILED_START
    assert {w.phase for w in rows.values()} == {Phase.PENDING}
    world.beat()
    assert [world.ti(w)["state"] for w in rows.values()] == ["queued", "queued"]
    assert sql("SELECT state FROM task_instance WHERE state = 'failed'") == [{"state": "failed"}]


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"overrides": object()}, "executor_config['overrides'] is a object"),
        ({"tags": [{"value": float("nan")}]}, "executor_config['tags'][0]['value'] is nan"),
        ({"tags": {1: "one"}}, "names that are not text"),
        ({"reason": "half \ud800"}, "holds a NUL or half a character"),
        ({"reason": "x" * 70_000}, "RunTask takes 65536 at most"),
    ],
    ids=["object", "nan", "names", "surrogate", "size"],
)
def test_an_executor_config_that_is_not_json_fails_its_own_task_with_a_sentence(
    world: World, config: dict[str, Any], why: str
) -> None:
    world.schedule(1, executor_config=config)
    healthy = world.schedule(1)

    assert world.queue() == 2
    world.beat()

    bad, good = sorted(world.rows(), key=lambda w: w.ti_id == str(healthy[0]))
    assert (bad.phase, world.ti(bad)["state"]) == (Phase.FAILED_START, "failed")
    assert (good.phase, world.ti(good)["state"]) == (Phase.PENDING, "queued")
    assert any(why in extra for extra in world.audit())


def test_a_thousand_workloads_are_one_statement(world: World, statements: list[tuple[str, int]]) -> None:
    world.daemon_holds_its_lease(for_seconds=600)
    world.executor._parts.slots._max_running_tasks = 2000
    world.beat()
    world.schedule(1000)
    statements.clear()

    assert world.queue() == 1000

    ours = [(text, rows) for text, rows in statements if "ecs_workload" in text]
    # SQLite takes rows one by one, PostgreSQL all of them in one parameter.
    assert [rows for _, rows in ours] == [1000 if settings.get_engine().dialect.name == "sqlite" else 1]
    assert len(world.rows()) == len(world.running) == 1000


def test_the_same_task_instance_queued_again_is_another_row(world: World) -> None:
    (first,) = world.queued()
    world.set_ti(first, state="scheduled")

    world.queue()

    (again,) = [w for w in world.rows() if w.exec_id != first.exec_id]
    assert (again.ti_id, again.key) == (first.ti_id, first.key)
    assert world.ti(first)["external_executor_id"] == again.exec_id


@pytest.mark.parametrize("executor", [None, "ecs", "reconciler.airflow.executor.EcsReconcilerExecutor"])
def test_beside_another_executor_a_task_may_name_ours_in_any_way(
    world: World, monkeypatch: pytest.MonkeyPatch, executor: str | None
) -> None:
    ours = "ecs:reconciler.airflow.executor.EcsReconcilerExecutor"
    others = [ours, "LocalExecutor"] if executor is None else ["LocalExecutor", ours]
    beside = World(",".join(others), monkeypatch)

    (row,) = beside.queued(executor=executor)

    assert beside.ti(row)["external_executor_id"] == row.exec_id


def test_a_task_that_names_ours_by_its_class_gets_a_new_id_each_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow gives it none the first time, and leaves the old one the second time."""
    beside = World("LocalExecutor,ecs:reconciler.airflow.executor.EcsReconcilerExecutor", monkeypatch)
    (first,) = beside.queued(executor="EcsReconcilerExecutor")
    assert beside.ti(first)["external_executor_id"] == first.exec_id
    beside.set_ti(first, state="scheduled")

    beside.queue()

    (again,) = [w for w in beside.rows() if w.exec_id != first.exec_id]
    assert beside.ti(first)["external_executor_id"] == again.exec_id
    assert len(beside.running) == 1


def test_what_is_not_queued_any_more_when_it_could_be_written_at_last_is_not_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = World("LocalExecutor,ecs:reconciler.airflow.executor.EcsReconcilerExecutor", monkeypatch)
    beside.schedule(2, executor="EcsReconcilerExecutor")
    with monkeypatch.context() as patch:
        patch.setattr(shim, "insert", lambda *_: 1 / 0)
        beside.queue()
    sql("UPDATE task_instance SET state = 'failed' WHERE map_index = 0")

    beside.beat()

    (row,) = beside.rows()
    assert row.key.map_index == 1
    assert beside.ti(row)["external_executor_id"] == row.exec_id


def test_tasks_of_another_executor_are_none_of_ours(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = World("LocalExecutor,reconciler.airflow.executor.EcsReconcilerExecutor", monkeypatch)
    local = beside.runner.executors[0]
    taken: list[Any] = []
    monkeypatch.setattr(local, "queue_workload", lambda workload, session: taken.append(workload))  # noqa: ARG005

    beside.schedule(1)
    assert beside.queue() == 1

    assert len(taken) == 1
    assert beside.rows() == []


def test_the_executor_of_a_team_keeps_its_own_books(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    blue = type(world.executor)(team_name="blue")
    blue.job_id = world.job.id
    blue.start()
    monkeypatch.setattr(world.runner, "_executor_to_workloads", lambda tis, _session: {blue: list(tis)})
    (w,) = world.queued()
    assert w.team == "blue"

    for executor in (world.executor, blue):
        executor.heartbeat()
        executor.heartbeat()
    world.daemon(w.exec_id, phase="FAILED_START", reason="no such image")
    world.beat()

    assert (len(world.executor.running), len(blue.running)) == (0, 1)
    assert world.ti(w)["state"] == "queued"
    blue.heartbeat()
    assert [state for state, _info in blue.get_event_buffer().values()] == ["failed"]
    assert blue.running == set()
