"""Between a `Workload` and its row: the mapping, the database's clock, and reading rows."""

from __future__ import annotations

import json
import logging
from dataclasses import fields
from datetime import datetime
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import msgspec
from sqlalchemy import ARRAY, Column, Double, Text, bindparam, cast, func, literal_column, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import NullType, TypeDecorator

from reconciler.core.phase import Desired, Phase
from reconciler.core.task import Kind, Snapshot, Spec, TaskKey, Workload
from reconciler.store.schema import SPEC_VERSION, NotJson, UtcDateTime, workloads

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from sqlalchemy import (
        BindParameter,
        ColumnElement,
        Connection,
        Dialect,
        Engine,
        ScalarSelect,
        Select,
        TableValuedAlias,
    )
    from sqlalchemy.sql.compiler import SQLCompiler
    from sqlalchemy.types import TypeEngine

__all__ = ["KEY", "LIGHT", "STATUS", "WHOLE", "DbNow", "Joined", "among", "as_records", "batches", "columns_of"]
__all__ += ["joined", "now", "read", "read_now", "recordset", "row_of", "say_unreadable", "seconds", "snapshot"]
__all__ += ["status_of", "unreadable"]

KEY: Final = tuple(field.name for field in fields(TaskKey))
"""Columns, of Airflow's tables and ours."""
_SPEC: Final = ("workload", "executor_config", "spec_version")

STATUS: Final = (
    "phase",
    "version",
    "attempt",
    "start_failures",
    "not_before",
    "intent_at",
    "profile",
    "shard",
    "cluster",
    "family",
    "params",
    "logs",
    "cpu",
    "task_arn",
    "ecs_version",
    "last_status",
    "started_at",
    "stopped_at",
    "exit_code",
    "stop_code",
    "reason",
    "updated_at",
)
"""The daemon's columns. All others are the shim's."""

LIGHT: Final = tuple(column for column in workloads.c if column.name not in _SPEC)
"""A row without its spec."""

_WIDTH: Final = len(LIGHT)
_PARAMS: Final = [column.name for column in LIGHT].index("params")

_FIELDS: Final = [column.name for column in LIGHT if column.name not in KEY]
_fields: Final = attrgetter(*_FIELDS)
_key: Final = attrgetter(*KEY)
_WORDS: Final = ("kind", "desired", "phase")

WHOLE: Final = (*LIGHT, workloads.c.workload, workloads.c.executor_config)

BATCH: Final = 1000
"""How many rows one statement is about at most."""


class DbNow(FunctionElement[datetime]):
    """The database's clock at this moment, not at the transaction's start; with an argument, so many seconds later.

    On SQLite it is `strftime(format, 'now'[, modifier])`: who owns that function on a connection owns the time.
    """

    type = UtcDateTime()
    inherit_cache = True


@compiles(DbNow, "postgresql")
def _now_on_postgresql(element: DbNow, compiler: SQLCompiler, **options: Any) -> str:
    if not element.clauses.clauses:
        return "clock_timestamp()"
    return f"(clock_timestamp() + make_interval(secs => {compiler.process(element.clauses, **options)}))"


@compiles(DbNow, "sqlite")
def _now_on_sqlite(element: DbNow, compiler: SQLCompiler, **options: Any) -> str:
    if not element.clauses.clauses:
        return "strftime('%Y-%m-%d %H:%M:%f', 'now')"
    return f"strftime('%Y-%m-%d %H:%M:%f', 'now', {compiler.process(element.clauses, **options)} || ' seconds')"


class Joined(FunctionElement[str]):
    """The values of a column in all rows, with commas between them, as one text; None if there are none.

    For one who wants many short values and has to wait for them: as rows they cost the driver ten times as much.
    """

    type = Text()
    inherit_cache = True


@compiles(Joined, "postgresql")
def _joined_on_postgresql(element: Joined, compiler: SQLCompiler, **options: Any) -> str:
    return f"string_agg({compiler.process(element.clauses, **options)}, ',')"


@compiles(Joined, "sqlite")
def _joined_on_sqlite(element: Joined, compiler: SQLCompiler, **options: Any) -> str:
    return f"group_concat({compiler.process(element.clauses, **options)}, ',')"


class Texts(TypeDecorator["Sequence[str]"]):
    """A parameter that is a list of texts."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else ARRAY(Text()))

    def process_bind_param(self, value: Sequence[str] | None, dialect: Dialect) -> Any:
        return json.dumps(value) if dialect.name == "sqlite" else value


class Among(FunctionElement[Any]):
    """Whether a column's value is in a list, which is one parameter.

    SQLAlchemy's IN has one for each value: with every length the text is another one, which SQLAlchemy must write and
    the database must plan anew, and that takes longer than to find the rows.
    """

    type = NullType()  # a Boolean would be compared with 1 on SQLite, which keeps it from the index
    inherit_cache = True


@compiles(Among, "postgresql")
def _among_on_postgresql(element: Among, compiler: SQLCompiler, **options: Any) -> str:
    column, values = (compiler.process(part, **options) for part in element.clauses)
    return f"{column} = ANY ({values})"


@compiles(Among, "sqlite")
def _among_on_sqlite(element: Among, compiler: SQLCompiler, **options: Any) -> str:
    column, values = (compiler.process(part, **options) for part in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({values}))"  # noqa: S608 - both are SQLAlchemy's own text


def among(column: ColumnElement[Any], name: str) -> ColumnElement[bool]:
    """`column` is one of the texts in the parameter `name`."""
    return Among(column, bindparam(name, type_=Texts()))


def recordset(name: str, columns: Iterable[Column[Any]]) -> TableValuedAlias:
    """On PostgreSQL, the rows that are in the parameter `name` as one text, which `as_records` makes.

    A hundred rows of forty parameters would keep a scheduler in its driver for ten milliseconds.
    """
    rows = func.json_to_recordset(cast(bindparam(name, type_=Text), postgresql.JSON))
    return rows.table_valued(*(Column(column.name, column.type) for column in columns)).render_derived(with_types=True)


def as_records(rows: Iterable[Mapping[str, Any]]) -> str:
    """What is not named, or None, is NULL."""
    return _encode([{name: value for name, value in row.items() if value is not None} for row in rows]).decode()


_encode: Final = msgspec.json.Encoder(enc_hook=str).encode
"""Of a subclass of `str`, which it does not know, the text."""


def joined(*columns: ColumnElement[Any]) -> ColumnElement[str]:
    """The texts of columns, with a space between them, as one text."""
    first, *others = (cast(column, Text) for column in columns)
    text: ColumnElement[str] = first
    for other in others:
        text = text.concat(literal_column("' '")).concat(other)
    return text


def seconds(name: str) -> BindParameter[float]:
    """A parameter for `DbNow`."""
    return bindparam(name, type_=Double())


def now(plus: BindParameter[float] | None = None) -> ScalarSelect[datetime]:
    """The clock for comparing with a column: read once per statement, and not once per row."""
    return select(DbNow() if plus is None else DbNow(plus)).scalar_subquery()


_NOW: Final = select(DbNow())


def read_now(conn: Connection) -> datetime:
    """The database's clock, read by itself."""
    return conn.execute(_NOW).scalar_one()


def read(conn: Connection, statement: Select[Any], **parameters: Any) -> list[Workload]:
    """The workloads that a statement finds whose columns are LIGHT or WHOLE.

    A row that this release can not read is left out: somebody wrote it by hand, or a newer release did. The others must
    not wait for it.
    """
    found = []
    for row in conn.execute(statement, parameters):
        try:
            found.append(_workload(row))
        except ValueError as error:
            say_unreadable(row[0], str(error))
            if told := conn.get_execution_options().get(_UNREADABLE):
                told(row[0], str(error))
    return found


def unreadable(engine: Engine, told: Callable[[str, str], None]) -> Engine:
    """The same engine, which tells the exec_id of each row that can not be read, and why, at every read of it."""
    return engine.execution_options(**{_UNREADABLE: told})


_UNREADABLE: Final = "ecs_reconciler_unreadable"
_log: Final = logging.getLogger(__name__)


@lru_cache(maxsize=10_000)
def say_unreadable(exec_id: str, why: str) -> None:
    """Log it, once in the life of a process."""
    _log.error("the row %s of ecs_workload can not be read and is left alone: %s", exec_id, why)


def snapshot(conn: Connection, statement: Select[Any], **parameters: Any) -> Snapshot:
    """The same with the clock, which is read first, so that an age is never too great."""
    at = read_now(conn)
    return Snapshot(at, tuple(read(conn, statement, **parameters)))


def batches(ids: Collection[str]) -> Iterator[list[str]]:
    """The ids in order, in lists that fit into one statement. Whoever locks rows locks them in this order."""
    ordered = sorted(set(ids))
    for start in range(0, len(ordered), BATCH):
        yield ordered[start : start + BATCH]


def columns_of(some: Sequence[Workload]) -> dict[str, Sequence[Any]]:
    """All columns of new rows, except those that the database's clock fills: the values of each, in the rows' order."""
    columns: dict[str, Sequence[Any]] = dict(zip(_FIELDS, zip(*map(_fields, some), strict=True), strict=True))
    columns.update(zip(KEY, zip(*(_key(w.key) for w in some), strict=True), strict=True))
    for name in _WORDS:
        columns[name] = [word.value for word in columns[name]]
    columns["workload"] = [w.spec.workload if w.spec else None for w in some]
    columns["executor_config"] = [w.spec.executor_config if w.spec else None for w in some]
    columns["spec_version"] = [SPEC_VERSION] * len(some)
    return columns


def row_of(w: Workload) -> dict[str, Any]:
    """The same of one row."""
    return {name: values[0] for name, values in columns_of([w]).items()}


def status_of(w: Workload) -> dict[str, Any]:
    """The daemon's columns as parameters named `new_<column>`."""
    return {f"new_{name}": getattr(w, name) for name in STATUS} | {"new_phase": w.phase.value}


def _workload(row: Sequence[Any]) -> Workload:
    """By position, for speed: the daemon does little else. The columns stand in the order of the fields of Workload.

    Raises ValueError for a row that holds what this release does not know.
    """
    params = row[_PARAMS]
    if type(params) is NotJson:
        raise ValueError(f"params is not JSON: {params}")
    spec = _spec(row[_WIDTH], row[_WIDTH + 1]) if len(row) > _WIDTH and row[_WIDTH] is not None else None
    fields: list[Any] = [*row[:2], Kind(row[2]), row[3], TaskKey(*row[4:9]), *row[9:13], spec]
    fields += [Desired(row[13]), *row[14:19], Phase(row[19]), *row[20:_WIDTH]]
    return Workload(*fields)


def _spec(workload: str, executor_config: Mapping[str, Any] | NotJson | None) -> Spec:
    """Of a spec that can not be used, the reason is kept: its workload fails with it, and its user is told."""
    if isinstance(executor_config, NotJson):
        return Spec(workload, flaw=f"its executor_config in the table is not a JSON object: {executor_config}")
    return Spec(workload, executor_config or {})
