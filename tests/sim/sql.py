"""SQLAlchemy's statements on SQLite, without what SQLAlchemy does anew for each execution.

A universe executes thousands of the same few statements. SQLAlchemy compiles them, and its types turn values to and
fro; what lies between, and takes most of the time, is left out. Lists within a statement go the ordinary way.
"""

from __future__ import annotations

from collections import namedtuple
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sqlalchemy import Connection, CursorResult, Executable
    from sqlalchemy.sql.compiler import SQLCompiler

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
        binds, values = compiled.binds, compiled.construct_params(_check=False)
        self.text = compiled.string
        self._places = [
            (binds[name].key, values[name], cast("Processor | None", compiled._bind_processors.get(name)))
            for name in compiled.positiontup or ()
        ]
        columns = compiled._result_columns
        dialect = compiled.dialect
        processors = [column.type._cached_result_processor(dialect, None) for column in columns]
        self._processors = [(n, processor) for n, processor in enumerate(processors) if processor is not None]
        self._row = namedtuple("Row", [column.keyname for column in columns], rename=True) if columns else None  # type: ignore[misc] # noqa: PYI024 - its columns are known only now

    def filled(self, parameters: Mapping[str, Any]) -> list[Any]:
        values = []
        for name, default, processor in self._places:
            value = parameters.get(name, default)
            values.append(processor(value) if processor else value)
        return values

    def rows(self, found: Sequence[Sequence[Any]]) -> Sequence[Any]:
        if not found or self._row is None:
            return found
        made = []
        for row in found:
            values = list(row)
            for n, processor in self._processors:
                values[n] = processor(values[n])
            made.append(self._row._make(values))
        return made


class FastConnection:
    """In the place of a `sqlalchemy.Connection`, and of the engine: there is only one, and nobody waits for it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.dialect = connection.dialect
        self._prepared: dict[tuple[int, bool, tuple[str, ...]], tuple[Executable, _Prepared | None]] = {}
        raw: Any = connection.connection.dbapi_connection
        raw.isolation_level = None  # transactions begin and end here, and nowhere else
        self.raw: sqlite3.Connection = raw
        self._execute = raw.execute

    def execution_options(self, **_: Any) -> FastConnection:
        return self

    @contextmanager
    def begin(self) -> Iterator[FastConnection]:
        self._execute("BEGIN")
        try:
            yield self
        except BaseException:
            self._execute("ROLLBACK")
            raise
        self._execute("COMMIT")

    connect = begin

    def execute(
        self, statement: Executable, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    ) -> Result | CursorResult[Any]:
        many = isinstance(parameters, list)
        some: Mapping[str, Any] = cast("Any", parameters[0] if many else parameters or {})
        key = (id(statement), many, tuple(some))
        # The statement is kept with what it was compiled to: its id is its own as long as it lives.
        _, prepared = self._prepared.get(key) or self._prepare(key, statement, some)
        if prepared is None:
            return self._connection.execute(statement, cast("Any", parameters))
        if many:
            each = [prepared.filled(one) for one in cast("Sequence[Mapping[str, Any]]", parameters)]
            return Result((), self.raw.executemany(prepared.text, each).rowcount)
        cursor = self._execute(prepared.text, prepared.filled(some))
        return Result(prepared.rows(cursor.fetchall()), cursor.rowcount)

    def exec_driver_sql(self, text: str, parameters: Sequence[Any] = ()) -> Result:
        cursor = self._execute(text, parameters)
        return Result(cursor.fetchall(), cursor.rowcount)

    def _prepare(
        self, key: tuple[int, bool, tuple[str, ...]], statement: Any, some: Mapping[str, Any]
    ) -> tuple[Executable, _Prepared | None]:
        if len(self._prepared) > 500:  # statements made anew for each execution
            self._prepared.clear()
        compiled = statement.compile(dialect=self.dialect, column_keys=sorted(some), for_executemany=key[1])
        entry = self._prepared[key] = statement, None if compiled.post_compile_params else _Prepared(compiled)
        return entry
