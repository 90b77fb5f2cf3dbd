"""What a heartbeat reads is one transaction, which stands in nobody's way."""

# Much of Airflow is not typed.
# mypy: allow-untyped-calls

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from airflow import settings
from sqlalchemy import text
from sqlalchemy.exc import OperationalError, ProgrammingError

from reconciler.airflow.transactions import Heartbeat, begin
from tests.shim.inside.world import Scheduler, sql

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from sqlalchemy import Connection

    from tests.shim.inside.world import World

pytestmark = pytest.mark.usefixtures("postgres_only", "world")

BEGAN = text("SELECT transaction_timestamp()")
ROWS = text("SELECT count(*) FROM ecs_workload")
READERS = text(
    "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE relation = to_regclass('ecs_workload') "
    "AND pid <> pg_backend_pid() AND backend_type = 'client backend'"  # and not autovacuum
)


@pytest.fixture
def heartbeat() -> Iterator[Heartbeat]:
    heartbeat = Heartbeat()
    yield heartbeat
    heartbeat.close()


def began(heartbeat: Heartbeat) -> datetime:
    """When the transaction began that the heartbeat reads in."""
    with heartbeat.read() as connection:
        connection.execute(ROWS)
        found: datetime = connection.execute(BEGAN).scalar_one()
        return found


def readers(connection: Connection) -> int:
    """How many locks others have on the table."""
    return int(connection.execute(READERS).scalar_one())


def write_and_fail(connection: Connection) -> None:
    connection.execute(text("DELETE FROM ecs_workload"))
    connection.execute(text("SELECT no_such_column FROM ecs_workload"))


def test_all_parts_read_in_one_transaction_until_it_is_ended(heartbeat: Heartbeat) -> None:
    first = began(heartbeat)
    assert began(heartbeat) == first
    heartbeat.end()
    assert began(heartbeat) > first


def test_the_connection_is_kept_for_the_next_heartbeat(heartbeat: Heartbeat) -> None:
    server = text("SELECT pg_backend_pid()")
    found = set()
    for _ in range(2):
        with heartbeat.read() as connection:
            found.add(connection.execute(server).scalar_one())
        heartbeat.end()
        with begin() as connection:
            found.discard(connection.execute(server).scalar_one())  # another one: it is not Airflow's to give
    assert len(found) == 1


def test_executors_of_one_process_keep_one_connection() -> None:
    """A scheduler may have one for each team, and its pool has fifteen."""
    its = settings.get_engine().pool
    before = its.checkedout()
    several = [Scheduler() for _ in range(3)]
    for scheduler in several:
        scheduler.beat()
    assert its.checkedout() <= max(before, 1)


def test_whoever_has_made_a_new_engine_gets_a_connection_of_it(heartbeat: Heartbeat) -> None:
    """As a process does that was forked: the old one is still its parent's."""
    with heartbeat.read() as before:
        heartbeat.end()
    settings.dispose_orm()
    settings.configure_orm()
    with heartbeat.read() as after:
        assert after.engine is not before.engine
    before.close()


def test_a_server_that_ends_the_connection_costs_one_part_its_turn(heartbeat: Heartbeat) -> None:
    with heartbeat.read() as connection:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    heartbeat.end()
    sql("SELECT pg_terminate_backend(:pid)", pid=pid)
    with pytest.raises(OperationalError):
        began(heartbeat)
    began(heartbeat)


def test_a_later_part_sees_what_was_committed_meanwhile(heartbeat: Heartbeat, world: World) -> None:
    with heartbeat.read() as connection:
        assert connection.execute(ROWS).scalar_one() == 0
    world.queued()
    with heartbeat.read() as connection:
        assert connection.execute(ROWS).scalar_one() == 1


def test_whoever_writes_finds_no_reader_left(heartbeat: Heartbeat) -> None:
    began(heartbeat)
    with begin() as connection:
        assert readers(connection) == 1
    with heartbeat.begin() as connection:
        assert readers(connection) == 0


def test_what_was_written_is_seen_by_others_at_once(heartbeat: Heartbeat, world: World) -> None:
    world.queued()
    with heartbeat.begin() as connection:
        connection.execute(text("DELETE FROM ecs_workload"))
    with begin() as connection:
        assert (connection.execute(ROWS).scalar_one(), readers(connection)) == (0, 0)


def test_a_write_that_fails_leaves_nothing(heartbeat: Heartbeat, world: World) -> None:
    world.queued()
    with pytest.raises(ProgrammingError), heartbeat.begin() as connection:
        write_and_fail(connection)
    with heartbeat.begin() as connection:
        assert connection.execute(ROWS).scalar_one() == 1


def test_only_a_heartbeat_does_not_wait_for_the_disk(heartbeat: Heartbeat) -> None:
    waits = text("SHOW synchronous_commit")
    with heartbeat.begin() as connection:
        assert connection.execute(waits).scalar_one() == "off"
    heartbeat.close()
    with begin() as connection:  # the same server process: Airflow's pool has given it back
        assert connection.execute(waits).scalar_one() == "on"


def test_a_part_that_fails_leaves_a_new_transaction_to_the_others(heartbeat: Heartbeat) -> None:
    first = began(heartbeat)
    with pytest.raises(ProgrammingError), heartbeat.read() as connection:
        connection.execute(text("SELECT no_such_column FROM ecs_workload"))
    assert began(heartbeat) > first


def test_after_a_heartbeat_of_the_executor_nothing_is_read_any_more(world: World) -> None:
    world.queued()
    world.beat()
    with begin() as connection:
        assert readers(connection) == 0


def test_a_reader_has_the_patience_of_the_shim(heartbeat: Heartbeat) -> None:
    (usual,) = sql("SHOW lock_timeout")
    with heartbeat.read() as connection:
        assert connection.execute(text("SHOW lock_timeout")).scalar_one() != usual["lock_timeout"]
