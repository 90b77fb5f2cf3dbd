"""Several writers at once: who wins, who waits, and that these tests notice a store that lets two win."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from threading import Barrier, Event
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from sqlalchemy import bindparam, event, text, update
from sqlalchemy.exc import OperationalError

from reconciler.core.errors import LeaseLost, StoreUnavailable
from reconciler.core.phase import Phase
from reconciler.core.task import Workload
from reconciler.store import shim, statements
from reconciler.store.daemon import SqlStore
from reconciler.store.engine import make_engine, writing
from reconciler.store.rows import STATUS
from reconciler.store.schema import workloads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from sqlalchemy import Connection, Engine

    from reconciler.seams import Change, Lease
    from tests.conftest import Deployment

T = TypeVar("T")
AT = datetime(2026, 11, 22, tzinfo=UTC)
LATER = timedelta(hours=1)
PATIENCE = 60.0


class NoCompare(SqlStore):
    """A planted fault: a swap that does not compare."""

    update = (
        update(workloads)
        .where(workloads.c.exec_id == bindparam("id"), bindparam("read_version") > 0, bindparam("of") == "prod")
        .values({name: bindparam(f"new_{name}", type_=workloads.c[name].type) for name in STATUS})
    )

    def _lock(self, conn: Connection, wanted: Mapping[str, Change]) -> dict[str, int]:
        return {exec_id: old.version for exec_id, (old, _) in wanted.items()}


class NoBarrier(SqlStore):
    """A planted fault: an intent like any other write."""

    intend = statements.UPDATE


class NoPeers(SqlStore):
    """A planted fault: an intent locks its own row only."""

    def _lock(self, conn: Connection, wanted: Mapping[str, Change]) -> dict[str, int]:
        return self._versions(conn, wanted, statements.LOCK)


class NoFence(SqlStore):
    """A planted fault: a leader that believes in itself."""

    def _write(self, lease: Lease) -> Any:
        return self._writer.begin()


@pytest.fixture
def second(database_url: str) -> Iterator[Engine]:
    """Another process on the same database, as far as the database can tell."""
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


def together(*calls: Callable[[], T]) -> list[T]:
    """Run these at the same moment, each in a thread of its own."""
    start = Barrier(len(calls))

    def run(call: Callable[[], T]) -> T:
        start.wait(PATIENCE)
        return call()

    with ThreadPoolExecutor(len(calls)) as threads:
        return [future.result(PATIENCE) for future in [threads.submit(run, call) for call in calls]]


def intent(w: Workload) -> Change:
    return w, w.moved(Phase.LAUNCHING, AT, attempt=w.attempt + 1, intent_at=AT, cluster="c")


def winners_of_one_row(prod: Deployment, second: Engine, kind: type[SqlStore]) -> int:
    """How many of two writers who read the same version believe that they wrote it."""
    read = prod.queue("x")
    stores = [kind(prod.engine, "prod"), kind(second, "prod")]
    changes = [(read, read.moved(Phase.CANCELLED, AT, reason=reason)) for reason in ("first", "second")]
    results = together(*(lambda s=s, c=c: s.save([c], prod.lease) for s, c in zip(stores, changes, strict=True)))
    row = prod.get("x")
    assert row.version == read.version + 1
    assert row.reason in {w.reason for won in results for w in won}
    return sum(len(won) for won in results)


def test_of_two_writers_that_read_the_same_version_one_wins(prod: Deployment, second: Engine) -> None:
    assert winners_of_one_row(prod, second, SqlStore) == 1


def test_the_race_above_notices_a_swap_that_does_not_compare(prod: Deployment, second: Engine) -> None:
    assert winners_of_one_row(prod, second, NoCompare) == 2


def test_batches_in_opposite_orders_do_not_deadlock(prod: Deployment, second: Engine) -> None:
    read = [prod.queue(f"{n:03}") for n in range(100)]
    stores = [SqlStore(prod.engine, "prod"), SqlStore(second, "prod")]
    batches = [[(w, w.moved(Phase.CANCELLED, AT)) for w in rows] for rows in (read, read[::-1])]

    results = together(*(lambda s=s, b=b: s.save(b, prod.lease) for s, b in zip(stores, batches, strict=True)))

    assert sorted(w.exec_id for won in results for w in won) == [w.exec_id for w in read]


def test_the_shim_and_the_daemon_never_both_win_a_row(prod: Deployment, second: Engine) -> None:
    """The shim gives a workload back to Airflow at the moment the daemon is about to launch it."""
    for n in range(10):
        read = prod.queue(f"x{n}")

        def give_back(read: Workload = read) -> int:
            with writing(second).begin() as conn:
                return len(shim.shed(conn, [read]))

        def launch(read: Workload = read) -> int:
            return len(prod.store.save([intent(read)], prod.lease))

        given, launched = together(give_back, launch)
        assert given + launched == 1
        assert prod.get(f"x{n}").phase is (Phase.LAUNCHING if launched else Phase.CANCELLED)
        assert len(prod.attempts(f"x{n}")) == launched


def test_of_two_replicas_that_ask_at_once_one_gets_the_lease(prod: Deployment, second: Engine) -> None:
    one, two = SqlStore(prod.engine, "prod"), SqlStore(second, "prod")

    def ask(name: str, *holders: str) -> Lease:
        asked = together(lambda: one.hold(name, holders[0], LATER), lambda: two.hold(name, holders[1], LATER))
        (lease,) = [lease for lease in asked if lease is not None]
        return lease

    for n in range(10):
        lease = ask(f"prod/{n}", "a", "b")
        assert lease.epoch == 1
        prod.store.release(lease)
        assert ask(f"prod/{n}", "c", "d").epoch == 2


# One transaction is held open just before its commit, while the other runs into it.


def held(prod: Deployment, first: Callable[[], T], then: Callable[[], T], engine: Engine) -> list[T | Exception]:
    """Run `first` on `engine` up to its commit, then `then` until it ends or waits for a lock; let both end."""
    reached, go_on = Event(), Event()

    def hold(_conn: object) -> None:
        reached.set()
        assert go_on.wait(PATIENCE)

    def attempt(call: Callable[[], T]) -> T | Exception:
        try:
            return call()
        except (LeaseLost, StoreUnavailable) as error:
            return error

    event.listen(engine, "commit", hold)
    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(attempt, first)
        try:
            assert reached.wait(PATIENCE)
            two = threads.submit(attempt, then)
            while not two.done() and not _somebody_waits(prod):
                wait([two], timeout=0.01)
        finally:
            go_on.set()
        return [one.result(PATIENCE), two.result(PATIENCE)]


def _somebody_waits(prod: Deployment) -> bool:
    with prod.engine.connect() as conn:
        statement = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return bool(conn.execute(text(statement)).scalar())


on_postgresql = pytest.mark.parametrize(
    "database_url", [pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True
)


def launches_of_one_task_instance(prod: Deployment, second: Engine, kind: type[SqlStore]) -> int:
    a, b = prod.queue("a", ti_id="ti"), prod.queue("b", ti_id="ti")
    one, two = kind(second, "prod"), kind(prod.engine, "prod")
    results = held(
        prod, lambda: one.save([intent(a)], prod.lease), lambda: two.save([intent(b)], prod.lease), engine=second
    )
    launched = [prod.get(exec_id).phase for exec_id in "ab"].count(Phase.LAUNCHING)
    assert launched == sum(len(won) for won in results if isinstance(won, list))
    return launched


@on_postgresql
def test_intents_for_one_task_instance_in_two_transactions_make_one_launch(prod: Deployment, second: Engine) -> None:
    assert launches_of_one_task_instance(prod, second, SqlStore) == 1


@on_postgresql
@pytest.mark.parametrize("kind", [NoBarrier, NoPeers])
def test_the_race_above_notices_a_missing_barrier(prod: Deployment, second: Engine, kind: type[SqlStore]) -> None:
    assert launches_of_one_task_instance(prod, second, kind) == 2


def takeover(prod: Deployment, second: Engine, kind: type[SqlStore]) -> list[list[Workload] | Exception]:
    """Another replica has taken the lease, and commits that only after the old leader has begun to write."""
    read = prod.queue("x")
    prod.store.release(prod.lease)

    def take() -> list[Workload]:
        assert SqlStore(second, "prod").hold(prod.lease.name, "second", LATER)
        return []

    leader = kind(prod.engine, "prod")
    return held(prod, take, lambda: leader.save([intent(read)], prod.lease), engine=second)


@on_postgresql
def test_a_write_that_meets_a_takeover_waits_for_it_and_is_refused(prod: Deployment, second: Engine) -> None:
    _, saved = takeover(prod, second, SqlStore)
    assert isinstance(saved, LeaseLost)
    assert prod.get("x").phase is Phase.PENDING


@on_postgresql
def test_the_takeover_above_notices_a_missing_fence(prod: Deployment, second: Engine) -> None:
    _, saved = takeover(prod, second, NoFence)
    assert not isinstance(saved, Exception)


@on_postgresql
def test_a_takeover_waits_for_the_write_that_was_first(prod: Deployment, second: Engine) -> None:
    read = prod.queue("x")
    prod.store.release(prod.lease)
    leader = SqlStore(second, "prod")

    saved, taken = held(
        prod,
        lambda: len(leader.save([intent(read)], prod.lease)),
        lambda: bool(prod.store.hold(prod.lease.name, "second", LATER)),
        engine=second,
    )

    assert (saved, taken) == (1, True)
    assert prod.get("x").phase is Phase.LAUNCHING


# SQLite has one writer at a time; the others must wait, and not fail.

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


class Deferred(SqlStore):
    """A planted fault: a transaction that reads first and takes the lock when it writes."""

    def __init__(self, engine: Engine, deployment: str) -> None:
        super().__init__(engine, deployment)
        self._writer = engine


@on_sqlite
def test_four_writers_on_one_sqlite_file_wait_for_each_other(prod: Deployment, database_url: str) -> None:
    def work(thread: int) -> int:
        engine = make_engine(database_url)
        # SQLite lets in whoever looks first, and a slow disk makes the unlucky one wait longer than in earnest.
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA busy_timeout = 60000"))
        store = SqlStore(engine, "prod")
        for n in range(15):
            exec_id = f"{thread}-{n}"
            with writing(engine).begin() as conn:
                shim.insert(conn, [Workload(exec_id=exec_id, deployment="prod")])
            (read,) = store.find([exec_id]).workloads
            (launching,) = store.save([intent(read)], prod.lease)
            assert store.save([(launching, launching.moved(Phase.LOST, AT))], prod.lease)
            assert store.hold(f"prod/{thread}", "me", LATER)
        engine.dispose()
        return n + 1

    assert together(*(lambda thread=thread: work(thread) for thread in range(4))) == [15] * 4
    assert prod.store.counts().by_phase[Phase.LOST] == 60


def interrupted(prod: Deployment, second: Engine, kind: type[SqlStore]) -> tuple[str, str]:
    """Another process tries to write between the reads and the first write of a save."""
    read = prod.queue("x")
    outcome: list[str] = []

    def meddle(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("UPDATE") and not outcome:
            try:
                with writing(second).begin() as conn:
                    conn.execute(update(workloads).values(owner_job_id=1))
                outcome.append("wrote")
            except OperationalError:
                outcome.append("had to wait")

    with second.connect() as conn:
        conn.exec_driver_sql("PRAGMA busy_timeout = 0")
    event.listen(prod.engine, "before_cursor_execute", meddle)
    try:
        saved = str(len(kind(prod.engine, "prod").save([intent(read)], prod.lease)))
    except StoreUnavailable as error:
        saved = str(error)
    return outcome[0], saved


@on_sqlite
def test_a_save_on_sqlite_has_the_lock_from_its_first_read_on(prod: Deployment, second: Engine) -> None:
    assert interrupted(prod, second, SqlStore) == ("had to wait", "1")


@on_sqlite
def test_the_interruption_above_notices_a_late_lock(prod: Deployment, second: Engine) -> None:
    assert interrupted(prod, second, Deferred) == ("wrote", "the database did not answer: database is locked")
