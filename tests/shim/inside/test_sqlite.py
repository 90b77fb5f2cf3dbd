"""On SQLite one writes at a time: a scheduler waits for its turn, and is not refused in the middle."""

# Much of Airflow is not typed.
# mypy: allow-untyped-calls

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING

import pytest
from airflow import settings
from airflow.utils.session import create_session
from sqlalchemy import text

from reconciler.airflow.enqueue import savepoint
from tests.shim.inside.world import sql

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.shim.inside.world import World

pytestmark = pytest.mark.usefixtures("sqlite_only", "world")

STUCK = 20


def connect(patience: float) -> sqlite3.Connection:
    """Another one, which waits so many seconds for the lock."""
    return sqlite3.connect(settings.get_engine().url.database, isolation_level=None, timeout=patience)


@contextmanager
def writers(count: int) -> Iterator[None]:
    """So many others write all the time, each commit a moment after it began."""
    over = Event()

    def write() -> None:
        with closing(connect(patience=30)) as connection:
            while not over.is_set():
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("UPDATE job SET hostname = hostname")
                over.wait(0.05)
                connection.execute("COMMIT")
                over.wait(0.02)

    threads = [Thread(target=write) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_nobody_writes_between_what_a_savepoint_reads_and_what_it_writes() -> None:
    with closing(connect(patience=0)) as other, create_session() as session, savepoint(session) as connection:
        connection.execute(text("SELECT count(*) FROM ecs_workload")).scalar_one()
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("UPDATE job SET hostname = 'in between'")
        connection.execute(text("UPDATE job SET hostname = 'ours'"))
    assert {row["hostname"] for row in sql("SELECT hostname FROM job")} == {"ours"}


def test_stuck_tasks_are_revoked_while_others_write(world: World) -> None:
    workloads = world.queued(STUCK)
    sql("UPDATE task_instance SET queued_dttm = '2020-01-01 00:00:00.000000'")
    with writers(2):
        world.runner._handle_tasks_stuck_in_queued()
    assert {str(world.ti(w)["state"]) for w in workloads} == {"scheduled"}
    assert {str(w.desired) for w in world.rows()} == {"STOP"}
