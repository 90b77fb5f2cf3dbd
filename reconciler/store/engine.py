"""Connecting, on PostgreSQL or SQLite, with the guarantees that the protocol leans on."""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import URL, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from reconciler.core.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine, ExceptionContext

__all__ = ["make_engine", "translated", "writing"]

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

# Limits hold for one transaction. Airflow's Helm chart puts PgBouncer in front of the database, in transaction mode:
# there the startup parameter `options` is refused, and a plain SET would stay behind on a server connection that
# Airflow's own components get next. A leader that vanishes in the middle of a transaction holds its lease's row until
# the server gives it up as idle: the next one can not begin before.
_LIMITS: Final = (
    "SELECT set_config('statement_timeout', '10s', true), set_config('lock_timeout', '3s', true), "
    "set_config('idle_in_transaction_session_timeout', '10s', true)"
)

_GONE: Final = frozenset({"25006", "57P01", "57P02", "57P03"})
"""SQLSTATEs of a server that was demoted or is going down: the connection must not be used again."""

_WRITES: Final = "ecs_reconciler_writes"


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
        pool_pre_ping=True,
        pool_recycle=1800,
        pool_timeout=10,
        # Each call to RunTask asks for the database's clock: so many threads may come at once.
        pool_size=8,
        max_overflow=40,
        hide_parameters=True,
        **options,
    )
    if driver == "psycopg":
        event.listen(engine, "connect", _prepare_only_if_direct)

    @event.listens_for(engine, "begin")
    def limit(connection: Connection) -> None:
        connection.exec_driver_sql(_LIMITS)

    @event.listens_for(engine, "handle_error")
    def forget(context: ExceptionContext) -> None:
        state = getattr(context.original_exception, "sqlstate", None)
        state = state or getattr(context.original_exception, "pgcode", None)
        if state in _GONE:
            context.is_disconnect = True

    return engine


def _prepare_only_if_direct(connection: Any, _record: object) -> None:
    """Let psycopg prepare statements, which makes batches some five times as fast, unless there is a pooler between.

    A prepared statement belongs to a server process, and a transaction pooler deals those out anew each time. A pooler
    shows in the process id that it made up for its client.
    """
    (pid,) = connection.execute("SELECT pg_backend_pid()").fetchone()
    connection.rollback()
    if pid != connection.info.backend_pid:
        connection.prepare_threshold = None


def _sqlite(url: URL) -> Engine:
    engine = create_engine(url.set(drivername="sqlite"), hide_parameters=True)

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # transactions are begun below, and not by the driver
        connection.execute("PRAGMA busy_timeout = 5000")
        connection.execute("PRAGMA journal_mode = WAL")
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
