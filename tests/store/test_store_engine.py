"""Connecting: which databases, with which drivers and limits, and what counts as "the database did not answer"."""

from __future__ import annotations

import re
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from threading import Barrier, Thread
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from reconciler.core.errors import StoreUnavailable
from reconciler.core.phase import Phase
from reconciler.store import engine as engine_module
from reconciler.store.daemon import SqlStore
from reconciler.store.engine import make_engine, reading, translated, writing
from reconciler.store.migrate import migrate
from tests.conftest import Deployment

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Engine

    from tests.conftest import Postgres

on_postgresql = pytest.mark.parametrize(
    "database_url", [pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True
)
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def launch(prod: Deployment) -> None:
    prod.queue("x")
    prod.move("x", Phase.LAUNCHING, Phase.STARTED, Phase.RUNNING, Phase.EXITED)
    assert prod.get("x").phase is Phase.EXITED


# Which databases.


@pytest.mark.postgres
@pytest.mark.parametrize(
    "scheme",
    ["postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2", "postgresql+asyncpg"],
)
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_any_postgresql_url_works_with_the_driver_that_is_there(
    postgres: Postgres, postgres_database: str, scheme: str, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if driver == "psycopg2":
        monkeypatch.setitem(sys.modules, "psycopg", None)  # what Python makes of a module that can not be imported
    engine = make_engine(postgres.url(postgres_database).replace("postgresql", scheme, 1))
    assert engine.dialect.driver == driver
    launch(Deployment(engine))
    engine.dispose()


def test_sqlite_works_in_memory_too() -> None:
    engine = make_engine("sqlite://")
    migrate(engine)
    launch(Deployment(engine))
    engine.dispose()


@pytest.mark.parametrize("url", ["mysql://u:secret@h/airflow", "mysql+mysqldb://u:secret@h/a", "oracle://u:secret@h"])
def test_another_database_is_refused_in_one_sentence(url: str) -> None:
    with pytest.raises(ValueError, match=r"must be PostgreSQL .* \[ecs_reconciler\] sql_alchemy_conn") as caught:
        make_engine(url)
    assert "secret" not in str(caught.value)


def test_a_url_that_can_not_be_read_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="can not be read") as caught:
        make_engine(f"secret {tmp_path}")
    assert "secret" not in str(caught.value)


# Limits and guarantees.


def settings(engine: Engine, *names: str) -> list[str]:
    with engine.connect() as conn:
        return [str(conn.exec_driver_sql(f"SHOW {name}").scalar()) for name in names]


LIMITS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")


@on_postgresql
def test_whatever_is_sent_to_postgresql_is_limited(engine: Engine) -> None:
    assert settings(engine, *LIMITS, "transaction_isolation") == ["10s", "3s", "10s", "read committed"]
    assert settings(reading(engine), *LIMITS) == ["10s", "3s", "10s"]


@pytest.mark.postgres
def test_what_the_url_says_wins(postgres: Postgres, postgres_database: str) -> None:
    engine = make_engine(postgres.url(postgres_database) + "&application_name=mine")
    assert settings(engine, "application_name") == ["mine"]
    engine.dispose()


def test_of_several_that_find_a_new_file_none_is_refused(tmp_path: Path) -> None:
    """As the processes of an Airflow that is started for the first time. It is a race, so it is run many times."""
    start = Barrier(6)

    def mode(number: int) -> str:
        engine = make_engine(f"sqlite:///{tmp_path / str(number)}")
        start.wait(60)
        with engine.connect() as conn:
            found: str = conn.exec_driver_sql("PRAGMA journal_mode").scalar_one()
        engine.dispose()
        return found

    with ThreadPoolExecutor(6) as threads:
        for number in range(60):
            assert list(threads.map(mode, [number] * 6)) == ["wal"] * 6


@on_sqlite
def test_sqlite_keeps_what_it_has_committed(engine: Engine) -> None:
    with engine.connect() as conn:
        found = {
            name: conn.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2, "busy_timeout": 5000, "foreign_keys": 1}


@on_sqlite
def test_a_simulator_can_own_the_clock_of_sqlite(database_url: str) -> None:
    now = ["2031-01-01 00:00:00.000"]
    engine = make_engine(database_url)

    def strftime(form: str, what: str, *shift: str) -> str:
        assert (form, what) == ("%Y-%m-%d %H:%M:%f", "now")
        return now[0] if not shift else now[0].replace("00.000", f"{float(shift[0].removesuffix(' seconds')):06.3f}")

    @event.listens_for(engine, "connect")
    def own(connection: sqlite3.Connection, _record: object) -> None:
        connection.create_function("strftime", -1, strftime)

    store = SqlStore(engine, "prod")
    assert store.now().year == 2031
    assert store.hold("prod/a", "first", timedelta(seconds=15)) is not None
    now[0] = "2031-01-01 00:00:14.999"
    assert store.hold("prod/a", "second", timedelta(seconds=15)) is None
    now[0] = "2031-01-01 00:00:15.000"
    assert store.hold("prod/a", "second", timedelta(seconds=15)) is not None
    engine.dispose()


# Poolers.


class Pooler:
    """A stand-in for PgBouncer: passes everything on, but tells its clients a process id of its own.

    `trips` counts how often a client sent something and then waited. With `disguise=False` it is only a longer wire.
    """

    def __init__(self, folder: Path, server: str, *, disguise: bool = True) -> None:
        self._server, self._disguise = server, disguise
        self._waits = False
        self.trips = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / ".s.PGSQL.5432"))
        self._listener.listen()
        self._open = ExitStack()
        self._threads = [Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._server)
            self._open.callback(server.close)
            self._open.callback(client.close)
            for source, sink, answers in ((client, server, False), (server, client, True)):
                self._threads.append(Thread(target=self._pass, args=(source, sink, answers)))
                self._threads[-1].start()

    def _pass(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        try:
            while data := source.recv(65536):
                self.trips += not answers and not self._waits
                self._waits = not answers
                if answers and self._disguise:
                    # BackendKeyData: 'K', length 12, process id, secret.
                    data = re.sub(rb"K\0\0\0\x0c....", b"K\0\0\0\x0c\x7f\x7f\x7f\x7f", data, flags=re.DOTALL)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(60)
        self._open.close()


@pytest.fixture(params=[pytest.param(True, id="pooler"), pytest.param(False, id="direct")])
def relay(
    request: pytest.FixtureRequest, postgres: Postgres, postgres_database: str, tmp_path: Path
) -> Iterator[tuple[Pooler, str]]:
    """Something between the database and its client, and the URL that leads there."""
    direct = postgres.url(postgres_database)
    folder = direct.partition("host=")[2]
    pooler = Pooler(tmp_path, f"{folder}/.s.PGSQL.5432", disguise=request.param)
    yield pooler, direct.replace(folder, str(tmp_path))
    pooler.close()


@pytest.fixture
def pooled_url(relay: tuple[Pooler, str]) -> str:
    return relay[1]


pooled = pytest.mark.parametrize("relay", [True], indirect=True)


def prepared(url: str) -> int:
    """How many statements the server has prepared for an engine that has repeated itself."""
    engine = make_engine(url)
    store = SqlStore(engine, "prod")
    for _ in range(8):
        store.launchable(1)
    with engine.connect() as conn:
        count: int = conn.execute(text("SELECT count(*) FROM pg_prepared_statements")).scalar_one()
    engine.dispose()
    return count


@pytest.mark.postgres
@pooled
def test_statements_are_prepared_only_where_no_pooler_is_between(
    postgres: Postgres, postgres_database: str, pooled_url: str
) -> None:
    assert prepared(postgres.url(postgres_database)) > 0
    assert prepared(pooled_url) == 0


@pytest.mark.postgres
@pooled
def test_nothing_is_left_behind_on_a_poolers_server_connection(pooled_url: str) -> None:
    engine = make_engine(pooled_url)
    for this in (engine, reading(engine), writing(engine)):
        assert settings(this, *LIMITS) == ["10s", "3s", "10s"]
    # The same server connection, as a pooler's next client would get it.
    raw = engine.raw_connection()
    try:
        cursor = raw.cursor()
        for name in LIMITS:
            cursor.execute(f"SHOW {name}")
            assert cursor.fetchone() == ("0",)
    finally:
        raw.close()
        engine.dispose()


@pytest.mark.postgres
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_read_waits_for_the_network_no_more_often_than_it_must(
    relay: tuple[Pooler, str], driver: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if driver == "psycopg2":
        monkeypatch.setitem(sys.modules, "psycopg", None)
    pooler, url = relay
    engine = make_engine(url)
    store = SqlStore(engine, "prod")
    for _ in range(10):  # until the statements are prepared
        store.launchable(1)

    before = pooler.trips
    store.launchable(1)

    # The clock and the rows, and psycopg2 tells the server of autocommit. Through a pooler it is the clock, the rows,
    # and the transaction's begin, limits and end.
    direct = {"psycopg": 2, "psycopg2": 3}[driver]
    assert pooler.trips - before == (5 if pooler._disguise else direct)
    engine.dispose()


@on_postgresql
def test_a_connection_that_idled_is_tried_before_it_is_used(
    engine: Engine, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqlStore(engine, "prod")
    store.now()
    postgres.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'ecs-reconciler'")
    monkeypatch.setattr(engine_module, "_PING_AFTER", 0.0)
    store.now()


# What counts as "the database did not answer".


@pytest.mark.postgres
def test_a_server_that_is_not_there_is_unavailable_and_no_password_is_told(tmp_path: Path) -> None:
    engine = make_engine(f"postgresql://user:secret@/db?host={tmp_path}")
    with pytest.raises(StoreUnavailable, match="the database did not answer") as caught:
        SqlStore(engine, "prod").now()
    assert "secret" not in str(caught.value)
    engine.dispose()


def test_a_folder_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path}/none/x.db")
    with pytest.raises(StoreUnavailable, match="unable to open database file"):
        SqlStore(engine, "prod").now()
    engine.dispose()


@on_postgresql
def test_a_lock_that_is_not_given_in_time_is_unavailable(prod: Deployment, database_url: str) -> None:
    prod.queue("x")
    other = make_engine(database_url)
    with other.begin() as holder:
        holder.execute(text("SELECT 1 FROM ecs_workload FOR UPDATE"))
        with pytest.raises(StoreUnavailable, match="lock timeout"), translated(), prod.engine.begin() as conn:  # noqa: PT012 - the timeout belongs to the transaction
            conn.execute(text("SET LOCAL lock_timeout = '10ms'"))
            conn.execute(text("SELECT 1 FROM ecs_workload FOR UPDATE"))
    other.dispose()


@on_postgresql
def test_a_connection_that_was_cut_is_unavailable_once_and_then_made_anew(prod: Deployment, database_url: str) -> None:
    old = prod.queue("x")
    other = make_engine(database_url)
    with pytest.raises(StoreUnavailable), translated(), prod.engine.begin() as conn:  # noqa: PT012 - the cut falls into a transaction
        pid = conn.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with other.begin() as killer:
            killer.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid})
        conn.execute(text("UPDATE ecs_workload SET owner_job_id = 99"))
    assert prod.get("x") == old
    other.dispose()


@pytest.mark.postgres
def test_a_server_that_was_demoted_is_left_for_the_next(postgres: Postgres, postgres_url: str) -> None:
    """After a failover the old primary answers, but only reads. A pooled connection to it is of no use any more."""
    engine = make_engine(postgres_url)
    migrate(engine)
    name = engine.url.database
    postgres.run(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    engine.dispose()
    with pytest.raises(StoreUnavailable, match="read-only"):
        Deployment(engine)

    postgres.run(f"ALTER DATABASE {name} SET default_transaction_read_only = off")

    launch(Deployment(engine))
    engine.dispose()


def test_tables_that_are_missing_are_no_outage(empty_url: str) -> None:
    engine = make_engine(empty_url)
    with pytest.raises(DBAPIError, match="ecs_workload"):
        SqlStore(engine, "prod").launchable(1)
    engine.dispose()


@on_sqlite
def test_a_lock_on_sqlite_that_is_not_given_in_time_is_unavailable(prod: Deployment, database_url: str) -> None:
    prod.queue("x")
    other = make_engine(database_url)

    @event.listens_for(prod.engine, "engine_connect")
    def hurry(conn: Any) -> None:
        conn.connection.dbapi_connection.execute("PRAGMA busy_timeout = 1")

    with writing(other).begin(), pytest.raises(StoreUnavailable, match="database is locked"):
        prod.store.release(prod.lease)
    other.dispose()
