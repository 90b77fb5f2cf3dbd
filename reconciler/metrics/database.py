"""Latency and errors of the database by named statement: listeners on the engine, of which no statement knows."""

from __future__ import annotations

from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event
from sqlalchemy.exc import InterfaceError, OperationalError

from reconciler.metrics import catalogue
from reconciler.store.names import OTHER, statement_name, statement_names

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, ExceptionContext

    from reconciler.metrics.board import Board

__all__ = ["watch"]

_BEGAN: Final = "ecs_reconciler_began"
_TIMEOUTS: Final = frozenset({"57014", "55P03", "25P03"})
"""statement_timeout, lock_timeout, idle_in_transaction_session_timeout."""
_SERIALIZATION: Final = frozenset({"40001", "40P01"})
"""serialization_failure, deadlock_detected. https://www.postgresql.org/docs/current/errcodes-appendix.html"""
CONNECT: Final = "connect"


def watch(engine: Engine, board: Board) -> None:
    """Time each statement and transaction of an engine, and count its errors."""
    for name in (CONNECT, *statement_names()):
        for kind in catalogue.DATABASE_ERROR_KINDS:
            board.touch(catalogue.DATABASE_ERRORS, name, kind)

    board.measure(catalogue.POOL, partial(pool_sizes, engine))

    @event.listens_for(engine, "before_cursor_execute")
    def before(_connection: Connection, _cursor: Any, _sql: str, _values: Any, context: Any, _many: bool) -> None:
        if context is not None:
            context.ecs_reconciler_began = perf_counter()

    @event.listens_for(engine, "after_cursor_execute")
    def after(_connection: Connection, _cursor: Any, _sql: str, _values: Any, context: Any, _many: bool) -> None:
        if (began := getattr(context, _BEGAN, None)) is not None:
            board.observe(catalogue.STATEMENT_SECONDS, perf_counter() - began, statement_name(context))

    @event.listens_for(engine, "handle_error")
    def failed(context: ExceptionContext) -> None:
        statement = statement_name(context.execution_context)
        if context.connection is None or (context.statement is None and statement == OTHER):
            statement = CONNECT
        board.inc(catalogue.DATABASE_ERRORS, statement, _kind(context))

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.info[_BEGAN] = perf_counter()

    @event.listens_for(engine, "checkin")
    def checkin(_connection: Any, record: Any) -> None:
        if (began := record.info.pop(_BEGAN, None)) is not None:
            board.observe(catalogue.TRANSACTION_SECONDS, perf_counter() - began)


def _kind(context: ExceptionContext) -> str:
    original = context.original_exception
    state = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    if state in _TIMEOUTS or "database is locked" in str(original):
        return "timeout"
    if state in _SERIALIZATION:
        return "serialization"
    gone = context.is_disconnect or (state or "").startswith(("08", "57P", "53"))
    if gone or (state is None and isinstance(context.sqlalchemy_exception, InterfaceError | OperationalError)):
        return "connection"
    return "other"


def pool_sizes(engine: Engine) -> dict[str, int]:
    """Connections in use, idle and allowed, where the pool of this database counts them."""
    pool: Any = engine.pool
    if not hasattr(pool, "checkedin"):
        return {}
    limit = pool.size() + max(0, getattr(pool, "_max_overflow", 0))
    return {"used": pool.checkedout(), "idle": pool.checkedin(), "limit": limit}
