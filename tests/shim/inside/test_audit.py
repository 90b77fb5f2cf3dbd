"""What a user finds in the audit log of a task instance: every launch, retry, failed start and stop, once."""

# Much of Airflow is not typed.
# mypy: allow-untyped-calls

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow import settings
from sqlalchemy import insert, update

from reconciler.airflow.audit import LIMIT
from reconciler.airflow.parts import PUT_OFF
from reconciler.airflow.upkeep import Every
from reconciler.store import told
from reconciler.store.schema import attempts
from tests.shim.inside.world import Scheduler, sql

if TYPE_CHECKING:
    from reconciler.core.task import Workload
    from tests.shim.inside.world import World

AT = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
ARN = "arn:aws:ecs:eu-central-1:1:task/airflow/0123"


pytestmark = pytest.mark.usefixtures("rested")


def launched(w: Workload, attempt: int = 1, arn: str | None = ARN) -> None:
    """The daemon commits an intent, and hears of the task that it made."""
    with settings.get_engine().begin() as conn:
        values = {"exec_id": w.exec_id, "attempt": attempt, "client_token": "t", "started_by": "s", "epoch": 1}
        conn.execute(insert(attempts).values(**values, intent_at=AT + timedelta(minutes=attempt), task_arn=arn))


def ended(w: Workload, verdict: str, attempt: int = 1) -> None:
    with settings.get_engine().begin() as conn:
        closed = AT + timedelta(minutes=attempt, seconds=30)
        mine = (attempts.c.exec_id == w.exec_id, attempts.c.attempt == attempt)
        conn.execute(update(attempts).where(*mine).values(closed_at=closed, verdict=verdict))


def rows() -> list[tuple[str, str]]:
    found = sql("SELECT event, extra FROM log WHERE owner = 'ecs-reconciler' ORDER BY dttm, id")
    return [(row["event"], row["extra"]) for row in found]


def test_a_task_that_could_not_start_tells_its_whole_story_once(world: World) -> None:
    (w,) = world.queued()
    launched(w, arn=None)
    world.beat()
    assert rows() == []  # the intent alone is nothing that happened
    ended(w, "PENDING: RESOURCE:MEMORY")
    launched(w, 2)
    world.beat()
    ended(w, "PENDING: TaskFailedToStart: CannotPullContainerError: no such image", 2)
    launched(w, 3)
    ended(w, "FAILED_START: TaskFailedToStart: CannotPullContainerError: no such image", 3)
    for _ in range(3):
        world.beat()

    assert rows() == [
        ("ecs start failed", "attempt 1 did not start, and is tried again: RESOURCE:MEMORY"),
        ("ecs task launched again", f"attempt 2: {ARN}"),
        (
            "ecs start failed",
            "attempt 2 did not start, and is tried again: TaskFailedToStart: CannotPullContainerError: no such image",
        ),
        ("ecs task launched again", f"attempt 3: {ARN}"),
        ("ecs start failed", "attempt 3 did not start: TaskFailedToStart: CannotPullContainerError: no such image"),
    ]
    columns = "dag_id, task_id, run_id, map_index, try_number"
    (where,) = sql(f"SELECT DISTINCT {columns} FROM log WHERE owner = 'ecs-reconciler'")
    assert where == {name: getattr(w.key, name) for name in columns.split(", ")}


@pytest.mark.parametrize(
    ("verdict", "entry"),
    [
        ("EXITED: the task instance is failed", ("ecs task stopped", "attempt 1 ended: the task instance is failed")),
        ("EXITED", ("ecs task stopped", "attempt 1 ended: no reason was given")),
        ("CANCELLED: why", ("ecs launch cancelled", "attempt 1 was cancelled before it started: why")),
        ("LOST: why", ("ecs task lost", "attempt 1 is lost: why")),
    ],
)
def test_every_end_has_its_words(world: World, verdict: str, entry: tuple[str, str]) -> None:
    (w,) = world.queued()
    launched(w)
    ended(w, verdict)
    world.beat()
    assert rows() == [("ecs task launched", f"attempt 1: {ARN}"), entry]


def test_a_heartbeat_writes_so_many_rows_at_most_and_the_next_ones_the_rest(world: World) -> None:
    for w in world.queued(LIMIT + 10):
        launched(w)
    counts = []
    for _ in range(3):
        world.beat()
        counts.append(len(rows()))
    assert counts == [LIMIT, LIMIT + 10, LIMIT + 10]


def test_no_heartbeat_has_both_upkeep_and_this_and_neither_waits_for_ever(world: World) -> None:
    (w,) = world.queued()
    launched(w)
    its = world.executor._parts
    its._upkeep_due = Every(timedelta(0))
    looks: list[datetime] = []
    its._upkeep.run = looks.append
    counts = []
    for _ in range(2 * PUT_OFF + 2):
        world.beat()
        counts.append((len(looks), len(rows())))
    busy = [(n, 0) for n in range(1, PUT_OFF + 1)]
    assert counts == [*busy, (PUT_OFF, 1), *((PUT_OFF + n, 1) for n, _ in busy), (2 * PUT_OFF, 1)]


def test_a_row_and_its_mark_are_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error between the two leaves neither."""
    (w,) = world.queued()
    launched(w)

    def broken(*_: Any) -> None:
        raise RuntimeError("the database went away")

    with monkeypatch.context() as patch:
        patch.setattr(told, "mark", broken)
        world.beat()
        assert rows() == []
    world.beat()
    world.beat()
    assert len(rows()) == 1


def test_only_the_owner_tells(world: World) -> None:
    (w,) = world.queued()
    launched(w)
    other = Scheduler()
    other.beat()
    other.beat()
    assert rows() == []
    world.overwrite(w.exec_id, owner_job_id=other.job.id)
    world.beat()
    other.beat()
    world.beat()
    assert len(rows()) == 1


def acknowledged(world: World, w: Workload) -> None:
    """It has run, and its scheduler knows of its end."""
    launched(w)
    ended(w, "EXITED: Essential container in task exited")
    world.daemon(w.exec_id, phase="EXITED", attempt=1, exit_code=0)
    world.overwrite(w.exec_id, acked_version=world.row(w.exec_id).version)


def test_what_a_scheduler_had_not_told_before_it_stopped_is_told_by_the_next_and_nothing_else(world: World) -> None:
    (w,) = world.queued()
    acknowledged(world, w)
    world.set_ti(w, state="success")
    before, ti = world.row(w.exec_id), world.ti(w)
    world.die()
    other = Scheduler()
    for _ in range(PUT_OFF + 3):
        other.beat()

    assert rows() == [
        ("ecs task launched", f"attempt 1: {ARN}"),
        ("ecs task stopped", "attempt 1 ended: Essential container in task exited"),
    ]
    assert world.row(w.exec_id) == replace(before, owner_job_id=other.job.id)
    assert (other.executor.running, world.ti(w), len(world.audit())) == (set(), ti, 2)


def test_what_has_been_told_and_what_is_of_a_callback_stays_with_the_dead(world: World) -> None:
    acknowledged(world, world.queued_callback())
    (w,) = world.queued()
    acknowledged(world, w)
    world.beat()
    world.die()
    other = Scheduler()
    for _ in range(3):
        other.beat()
    assert {each.owner_job_id for each in world.rows()} == {world.job.id}


def test_a_callback_has_no_page_to_write_to(world: World) -> None:
    launched(world.queued_callback())
    world.beat()
    assert rows() == []
