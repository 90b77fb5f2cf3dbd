"""SQLAlchemy's statements on SQLite, without what SQLAlchemy does anew for each execution.

A universe executes thousands of the same few statements. SQLAlchemy compiles them, and its types turn values to and
fro; what lies between, and takes most of the time, is left out.
"""

from __future__ import annotations

from collections import namedtuple
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from reconciler.store import rows as rows_module
from reconciler.store.schema import metadata

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import Connection, Executable
    from sqlalchemy.sql.compiler import SQLCompiler

    from reconciler.core.task import Workload

    Processor = Callable[[Any], Any]


class Result:
    """What an execution gave, all of it read. As much of `sqlalchemy.CursorResult` as the stores use."""

    def __init__(self, rows: Sequence[Any], rowcount: int) -> None:
        self._rows, self.rowcount = rows, rowcount

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)

    def all(self) -> Sequence[Any]:
        return self._rows

    def one(self) -> Any:
        (row,) = self._rows
        return row

    def scalar(self) -> Any:
        return self._rows[0][0] if self._rows else None

    def scalar_one(self) -> Any:
        return self.one()[0]

    def scalars(self) -> Result:
        return Result([row[0] for row in self._rows], self.rowcount)


class _Prepared:
    """A compiled statement: its text, what fills its places, and what its columns are made of."""

    def __init__(self, compiled: SQLCompiler) -> None:
        self.writes = bool(compiled.isinsert or compiled.isupdate or compiled.isdelete)
        columns = compiled._result_columns
        processors = [column.type._cached_result_processor(compiled.dialect, None) for column in columns]
        self._processors = [(n, processor) for n, processor in enumerate(processors) if processor is not None]
        names = [column.keyname for column in columns]
        self._row: Any = type("Row", (namedtuple("Row", names, rename=True),), {"made": None}) if columns else None
        binds, values = compiled.binds, compiled.construct_params(_check=False)
        into: Any = compiled._bind_processors
        self._text = compiled.string
        self._places: list[tuple[str, Any, Processor | None]] = [
            (binds[name].key, values.get(name), into.get(name)) for name in compiled.positiontup or ()
        ]
        self._made: dict[Sequence[Any], Any] = {}
        target = getattr(compiled.statement, "table", None) if self.writes else None
        self.tables = _tables(compiled.string) if target is None else frozenset({target.name})
        self.asks_only_the_time = compiled.string == _NOW
        self.looks_at_the_clock = "strftime" in compiled.string

    def filled(self, parameters: Mapping[str, Any]) -> tuple[str, list[Any]]:
        """The text, and the values in its places."""
        get = parameters.get
        return self._text, [processor(get(name, default)) if processor else get(name, default)
                            for name, default, processor in self._places]  # fmt: skip

    def rows(self, found: Sequence[Sequence[Any]]) -> Sequence[Any]:
        """Each row as SQLAlchemy gives it. One that was read before is the same object again."""
        if not found or self._row is None:
            return found
        if len(self._made) > 1000:
            self._made.clear()
        made = self._made.get
        return [made(row) or self._make(row) for row in found]

    def _make(self, row: Sequence[Any]) -> Any:
        values = list(row)
        for n, processor in self._processors:
            values[n] = processor(values[n])
        made = self._made[row] = self._row._make(values)
        return made


_NOW = "SELECT strftime('%Y-%m-%d %H:%M:%f', 'now') AS anon_1"


@cache
def _tables(text: str) -> frozenset[str]:
    """The tables that a statement names, and perhaps more."""
    return frozenset(name for name in metadata.tables if name in text)


@contextmanager
def remembered_workloads() -> Iterator[None]:
    """The workload that was made of a row is made once: neither can be changed, and most rows are read many times."""
    real = rows_module._workload

    def workload(row: Any) -> Workload:
        try:
            made: Workload = row.made or real(row)
            row.made = made
        except AttributeError:  # a row of SQLAlchemy's own
            return real(row)
        return made

    with patch.object(rows_module, "_workload", workload):
        yield


class FastConnection:
    """In the place of a `sqlalchemy.Connection`, and of the engine: there is only one, and nobody waits for it."""

    def __init__(self, connection: Connection) -> None:
        self.slow, self.dialect = connection, connection.dialect
        self._prepared: dict[tuple[Any, ...], tuple[Executable, _Prepared]] = {}
        raw: Any = connection.connection.dbapi_connection
        raw.isolation_level = None  # transactions begin and end here, and nowhere else
        self.raw: sqlite3.Connection = raw
        self._execute = raw.execute
        self._writing = False
        self._known: dict[frozenset[str], dict[tuple[Any, ...], Result]] = {}
        """By tables, what was read since somebody last wrote to one of them, and will be the same if read again."""
        self.clock: Callable[[], datetime]

    def execution_options(self, **_: Any) -> FastConnection:
        return self

    def begin(self) -> FastConnection:
        """A transaction. SQLite hears of it with the first write: nobody else can come between two reads."""
        assert not self._writing
        return self

    connect = begin

    def __enter__(self) -> FastConnection:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if self._writing:
            self._writing = False
            if error is None:
                self._execute("COMMIT")
            else:
                self._known.clear()
                self._execute("ROLLBACK")

    def forget(self) -> None:
        """Somebody changed the tables behind this connection's back."""
        self._known.clear()

    def _write(self, tables: frozenset[str]) -> None:
        for read, known in self._known.items():
            if not read.isdisjoint(tables):
                known.clear()
        if not self._writing:
            self._writing = True
            self._execute("BEGIN")

    def execute(
        self, statement: Executable, parameters: Mapping[str, Any] | list[Mapping[str, Any]] | None = None
    ) -> Result:
        if isinstance(parameters, list):
            return self._execute_many(statement, parameters)
        some = parameters or {}
        key = (id(statement), False, *some)
        # The statement is kept with what it was compiled to: its id is its own as long as it lives.
        _, prepared = self._prepared.get(key) or self._prepare(key, statement, some)
        if prepared.asks_only_the_time:
            return Result([(self.clock(),)], -1)
        if prepared.writes:
            self._write(prepared.tables)
        if prepared.writes or prepared.looks_at_the_clock:
            text, values = prepared.filled(some)
            cursor = self._execute(text, values)
            return Result(prepared.rows(cursor.fetchall()), cursor.rowcount)
        read = (key, *[tuple(value) if type(value) is list else value for value in some.values()])
        known = self._known_of(prepared.tables)
        result = known.get(read)
        if result is None:
            text, values = prepared.filled(some)
            result = known[read] = Result(prepared.rows(self._execute(text, values).fetchall()), -1)
        return result

    def _execute_many(self, statement: Executable, parameters: list[Mapping[str, Any]]) -> Result:
        key = (id(statement), True, *parameters[0])
        _, prepared = self._prepared.get(key) or self._prepare(key, statement, parameters[0])
        self._write(prepared.tables)
        each = [prepared.filled(one) for one in parameters]
        return Result((), self.raw.executemany(each[0][0], [values for _, values in each]).rowcount)

    def exec_driver_sql(self, text: str, parameters: Sequence[Any] = ()) -> Result:
        tables = _tables(text)
        if not text.startswith("SELECT"):
            self._write(tables)
            return Result((), self._execute(text, parameters).rowcount)
        known = self._known_of(tables)
        result = known.get((text, *parameters))
        if result is None:
            result = known[text, *parameters] = Result(self._execute(text, parameters).fetchall(), -1)
        return result

    def _known_of(self, tables: frozenset[str]) -> dict[tuple[Any, ...], Result]:
        known = self._known.get(tables)
        if known is None:
            known = self._known[tables] = {}
        return known

    def _prepare(self, key: tuple[Any, ...], statement: Any, some: Mapping[str, Any]) -> tuple[Executable, _Prepared]:
        if len(self._prepared) > 500:  # statements made anew for each execution
            self._prepared.clear()
        compiled = statement.compile(dialect=self.dialect, column_keys=sorted(some), for_executemany=key[1])
        entry = self._prepared[key] = statement, _Prepared(compiled)
        return entry
