"""SQLAlchemy's statements on SQLite, without what SQLAlchemy does anew for each execution.

A universe executes thousands of the same few statements. SQLAlchemy compiles them, and its types turn values to and
fro; what lies between, and takes most of the time, is left out.
"""

from __future__ import annotations

from collections import namedtuple
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sqlalchemy import Connection, Executable
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
        self._compiled = compiled
        self.writes = bool(compiled.isinsert or compiled.isupdate or compiled.isdelete)
        columns = compiled._result_columns
        processors = [column.type._cached_result_processor(compiled.dialect, None) for column in columns]
        self._processors = [(n, processor) for n, processor in enumerate(processors) if processor is not None]
        names = [column.keyname for column in columns]
        self._row: Any = namedtuple("Row", names, rename=True) if columns else None
        self._expanding = [compiled.bind_names[bind] for bind in compiled.post_compile_params]
        self._texts: dict[tuple[int, ...], tuple[str, list[tuple[str, Any, Processor | None]]]] = {}

    def filled(self, parameters: Mapping[str, Any]) -> tuple[str, list[Any]]:
        """The text for lists as long as these, and the values in its places."""
        lengths = tuple([len(parameters[name]) for name in self._expanding])
        text, places = self._texts.get(lengths) or self._text(lengths, parameters)
        if lengths:
            items = {name: _flat(parameters[name]) for name in self._expanding}
            numbered = {f"{name} {n}": item for name, flat in items.items() for n, item in enumerate(flat)}
            parameters = {**parameters, **numbered}
        values = []
        for name, default, processor in places:
            value = parameters.get(name, default)
            values.append(processor(value) if processor else value)
        return text, values

    def _text(self, lengths: tuple[int, ...], parameters: Mapping[str, Any]) -> Any:
        compiled = self._compiled
        binds, values = compiled.binds, compiled.construct_params(_check=False)
        processors: Any = compiled._bind_processors
        text, names = compiled.string, list(compiled.positiontup or ())
        keys = {name: binds[name].key for name in binds}
        if lengths:
            state = compiled._process_parameters_for_postcompile(compiled.construct_params(parameters, _check=False))
            text, names, processors = state.statement, list(state.positiontup or ()), {**processors, **state.processors}
            for name, expanded in state.parameter_expansion.items():
                keys |= {each: f"{name} {n}" for n, each in enumerate(expanded)}
        made = text, [(keys[name], values.get(name), processors.get(name)) for name in names]
        self._texts[lengths] = made
        return made

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


def _flat(items: Sequence[Any]) -> list[Any]:
    return [part for item in items for part in item] if items and isinstance(items[0], tuple) else list(items)


class FastConnection:
    """In the place of a `sqlalchemy.Connection`, and of the engine: there is only one, and nobody waits for it."""

    def __init__(self, connection: Connection) -> None:
        self.slow, self.dialect = connection, connection.dialect
        self._prepared: dict[tuple[int, bool, tuple[str, ...]], tuple[Executable, _Prepared]] = {}
        raw: Any = connection.connection.dbapi_connection
        raw.isolation_level = None  # transactions begin and end here, and nowhere else
        self.raw: sqlite3.Connection = raw
        self._execute = raw.execute
        self._writing = False
        self._known: dict[tuple[Any, ...], Result] = {}
        """What was read since the last write, and will be the same if it is read again."""

    def execution_options(self, **_: Any) -> FastConnection:
        return self

    @contextmanager
    def begin(self) -> Iterator[FastConnection]:
        """A transaction. SQLite hears of it with the first write: nobody else can come between two reads."""
        assert not self._writing
        try:
            yield self
        except BaseException:
            self._end("ROLLBACK")
            raise
        self._end("COMMIT")

    connect = begin

    def _end(self, how: str) -> None:
        if self._writing:
            self._writing = False
            self._known.clear()
            self._execute(how)

    def forget(self) -> None:
        """Somebody changed the tables behind this connection's back."""
        self._known.clear()

    def _write(self) -> None:
        self._known.clear()
        if not self._writing:
            self._writing = True
            self._execute("BEGIN")

    def execute(
        self, statement: Executable, parameters: Mapping[str, Any] | list[Mapping[str, Any]] | None = None
    ) -> Result:
        many = isinstance(parameters, list)
        some = parameters[0] if isinstance(parameters, list) else parameters or {}
        key = (id(statement), many, tuple(some))
        # The statement is kept with what it was compiled to: its id is its own as long as it lives.
        _, prepared = self._prepared.get(key) or self._prepare(key, statement, some)
        if prepared.writes:
            self._write()
        if isinstance(parameters, list):
            each = [prepared.filled(one) for one in parameters]
            return Result((), self.raw.executemany(each[0][0], [values for _, values in each]).rowcount)
        text, values = prepared.filled(some)
        if prepared.writes or "strftime" in text:  # which is the clock
            cursor = self._execute(text, values)
            return Result(prepared.rows(cursor.fetchall()), cursor.rowcount)
        read = (text, *values)
        known = self._known.get(read)
        if known is None:
            known = self._known[read] = Result(prepared.rows(self._execute(text, values).fetchall()), -1)
        return known

    def exec_driver_sql(self, text: str, parameters: Sequence[Any] = ()) -> Result:
        if not text.startswith("SELECT"):
            self._write()
            return Result((), self._execute(text, parameters).rowcount)
        known = self._known.get((text, *parameters))
        if known is None:
            known = self._known[text, *parameters] = Result(self._execute(text, parameters).fetchall(), -1)
        return known

    def _prepare(
        self, key: tuple[int, bool, tuple[str, ...]], statement: Any, some: Mapping[str, Any]
    ) -> tuple[Executable, _Prepared]:
        if len(self._prepared) > 500:  # statements made anew for each execution
            self._prepared.clear()
        compiled = statement.compile(dialect=self.dialect, column_keys=sorted(some), for_executemany=key[1])
        entry = self._prepared[key] = statement, _Prepared(compiled)
        return entry
