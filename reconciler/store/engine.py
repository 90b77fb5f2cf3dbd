"""Connecting, on PostgreSQL or SQLite, with the guarantees that the protocol leans on."""

from __future__ import annotations

import sqlite3
import time
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import URL, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from tenacity import retry, retry_if_exception_message, stop_after_delay, wait_random

from reconciler.core.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine, ExceptionContext
    from sqlalchemy.pool import ConnectionPoolEntry

__all__ = ["make_engine", "prepares_if_direct", "reading", "translated", "writing"]

_CONNECT: Final[dict[str, Any]] = {
    "application_name": "ecs-reconciler",
    "connect_timeout": 10,
    # A peer that vanishes without a word (failover, NAT) is given up after half a minute and not after hours.
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""libpq's parameters. Those that the URL sets itself win."""

# Airflow's Helm chart puts PgBouncer in front of the database, in transaction mode: there the startup parameter
# `options` is refused, and a plain SET would stay behind on a server connection that Airflow's own components get next.
# So behind a pooler limits hold for one transaction. A leader that vanishes in the middle of a transaction holds its
# lease's row until the server gives it up as idle: the next one can not begin before.
_LIMITS: Final = (
    "SELECT set_config('statement_timeout', '10s', true), set_config('lock_timeout', '3s', true), "
    "set_config('idle_in_transaction_session_timeout', '10s', true)"
)

_GONE: Final = frozenset({"25006", "57P01", "57P02", "57P03"})
"""SQLSTATEs of a server that was demoted or is going down: the connection must not be used again."""

_WRITES: Final = "ecs_reconciler_writes"
_READS: Final = "ecs_reconciler_reads"
_DIRECT: Final = "ecs_reconciler_direct"
"""Set in the notes of a connection that leads to the server itself, with no pooler between."""
_USED_AT: Final = "ecs_reconciler_used_at"
_PING_AFTER: Final = 10.0
"""Seconds after which an idle connection is tried before it is used. One that works all the time need not be."""


def make_engine(url: str | URL) -> Engine:
    """An engine for the reconciler's tables. Raises ValueError for a database that is not supported.

    Any PostgreSQL URL will do, Airflow's own included: the driver is psycopg if it is installed, else psycopg2.
    """
    try:
        parsed = make_url(url.replace("postgres://", "postgresql://", 1) if isinstance(url, str) else url)
    except ArgumentError:
        # The text is not shown: it may hold a password.
        raise ValueError("the database's URL can not be read: it looks like postgresql://user@host/database") from None
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        return _postgresql(parsed)
    if backend == "sqlite":
        return _sqlite(parsed)
    raise ValueError(
        f"the reconciler's tables live in Airflow's metadata database, and that must be PostgreSQL (or SQLite, on one "
        f"machine), not {backend}: see [database] sql_alchemy_conn and [ecs_reconciler] sql_alchemy_conn"
    )


def writing(engine: Engine) -> Engine:
    """The same engine for transactions that write."""
    return engine.execution_options(**{_WRITES: True})


def reading(engine: Engine) -> Engine:
    """The same engine for transactions that only read. Each statement sees what is committed when it begins."""
    return engine.execution_options(**{_READS: True})


@contextmanager
def translated() -> Iterator[None]:
    """Raise StoreUnavailable for whatever means "the database did not answer", or not in time."""
    try:
        yield
    except PoolTimeoutError as error:
        raise StoreUnavailable("no connection to the database was free in time") from error
    except DBAPIError as error:
        if not _unavailable(error):
            raise
        text = str(error.orig).strip().partition("\n")[0]
        raise StoreUnavailable(f"the database did not answer: {text}") from error


def _unavailable(error: DBAPIError) -> bool:
    # SQLite calls a missing table an OperationalError as well. That is no outage.
    if getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR:
        return False
    return isinstance(error, (OperationalError, InterfaceError)) or error.connection_invalidated


def _driver() -> str:
    try:
        import_module("psycopg")
    except ImportError:  # also when it is there and finds no libpq
        return "psycopg2"
    return "psycopg"


def _postgresql(url: URL) -> Engine:
    driver = _driver()
    # psycopg2 knows no prepared statements: at least it sends many of them at once.
    options = {"executemany_mode": "values_plus_batch"} if driver == "psycopg2" else {}
    engine = create_engine(
        url.set(drivername=f"postgresql+{driver}"),
        connect_args={name: value for name, value in _CONNECT.items() if name not in url.query},
        # A compare-and-swap that waited for a lock must look at the row as it is now: READ COMMITTED does.
        isolation_level="READ COMMITTED",
        pool_recycle=1800,
        pool_timeout=10,
        # The connection that was used last comes first, so that what is not needed idles and is tried before its use.
        pool_use_lifo=True,
        # Each call to RunTask asks for the database's clock: so many threads may come at once.
        pool_size=8,
        max_overflow=40,
        hide_parameters=True,
        **options,
    )
    _save_round_trips(engine)

    @event.listens_for(engine, "handle_error")
    def forget(context: ExceptionContext) -> None:
        state = getattr(context.original_exception, "sqlstate", None)
        state = state or getattr(context.original_exception, "pgcode", None)
        if state in _GONE:
            context.is_disconnect = True

    return engine


def prepares_if_direct(connection: Any) -> bool:
    """Let a driver's connection prepare no statement behind a pooler, which would run it where it is not prepared.

    Returns whether it leads to the server itself: a pooler shows in the process id that it made up for its client.
    """
    cursor = connection.cursor()
    cursor.execute("SELECT pg_backend_pid()")
    direct: bool = cursor.fetchone()[0] == connection.info.backend_pid
    cursor.close()
    connection.commit()
    if not direct and hasattr(connection, "prepare_threshold"):  # psycopg2 prepares nothing
        connection.prepare_threshold = None
    return direct


def _save_round_trips(engine: Engine) -> None:
    """Send what is needed and no more: the daemon reads a few rows several times a second.

    With a direct connection the limits are set once, statements are prepared, which makes batches some five times as
    fast, and reads need no transaction. A pooler deals out server processes anew for each transaction, so there the
    limits are set in each, and nothing is left behind on a server process that Airflow's own components get next.
    """

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, record: ConnectionPoolEntry) -> None:
        direct = record.info[_DIRECT] = prepares_if_direct(connection)
        if direct:
            cursor = connection.cursor()
            cursor.execute(_LIMITS.replace("true", "false"))
            cursor.close()
            connection.commit()

    @event.listens_for(engine, "checkin")
    def note(_: Any, record: ConnectionPoolEntry) -> None:
        record.info[_USED_AT] = time.monotonic()  # noqa: TID251 - a pause on this machine

    @event.listens_for(engine, "checkout")
    def ping(connection: Any, record: ConnectionPoolEntry, _: Any) -> None:
        used_at = record.info.get(_USED_AT)
        if used_at is None or time.monotonic() - used_at < _PING_AFTER:  # noqa: TID251 - the same
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.dbapi.Error as error:  # type: ignore[union-attr] # there is one
            raise DisconnectionError("the database closed an idle connection") from error  # and another one is made

    @event.listens_for(engine, "engine_connect")
    def read_without_transaction(connection: Connection) -> None:
        if connection.info.get(_DIRECT) and connection.get_execution_options().get(_READS):
            connection.execution_options(isolation_level="AUTOCOMMIT")

    @event.listens_for(engine, "begin")
    def limit(connection: Connection) -> None:
        if not connection.info.get(_DIRECT):
            connection.exec_driver_sql(_LIMITS)


@retry(
    retry=retry_if_exception_message(match="database is locked"),
    stop=stop_after_delay(5),
    wait=wait_random(0, 0.05),
    reraise=True,
)
def _write_ahead(connection: sqlite3.Connection) -> None:
    """Of several that find a new file and switch it at once SQLite refuses all but one, and does not wait."""
    connection.execute("PRAGMA journal_mode = WAL")


def _sqlite(url: URL) -> Engine:
    engine = create_engine(url.set(drivername="sqlite"), hide_parameters=True)

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # transactions are begun below, and not by the driver
        connection.execute("PRAGMA busy_timeout = 5000")
        _write_ahead(connection)
        # NORMAL may lose the last commits with the power, and with them an intent whose container runs.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # One that reads first and writes later fails with "database is locked", without waiting, if another has written
        # in between; so whoever is going to write takes the lock at once, and waits for it.
        immediate = connection.get_execution_options().get(_WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine
