"""The database of the universe: real SQL on SQLite in memory, a clock of its own, and answers that get lost.

A trigger tells the trace of every write to a row, before and after, whatever the code believes that it wrote.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import create_engine, event
from sqlalchemy.pool import StaticPool

from reconciler.core.errors import StoreUnavailable
from reconciler.core.task import Snapshot
from reconciler.store.schema import metadata
from tests.sim.sql import FastConnection
from tests.virtual import EPOCH

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from sqlalchemy import Connection

    from reconciler.store.daemon import SqlStore
    from tests.sim.engine import Process, Sim

COLUMNS: Final = (
    "exec_id",
    "ti_id",
    "kind",
    "try_number",
    "owner_job_id",
    "desired",
    "desired_at",
    "refused",
    "acked_version",
    "phase",
    "version",
    "attempt",
    "start_failures",
    "intent_at",
    "task_arn",
    "shard",
    "ecs_version",
    "exit_code",
    "stop_code",
    "reason",
    "params",
    "created_at",
)
_WRITES: Final = frozenset({"hold", "release", "save", "prune"})
Row = dict[str, Any]
_SHOWS: Final[dict[str, Callable[[Row, tuple[Any, ...]], bool]]] = {
    "in_phase": lambda row, phases: row["phase"] in phases,
    "launching": lambda row, _: row["phase"] == "LAUNCHING",
    "unwanted": lambda row, _: row["desired"] == "STOP",
    "failed_starts": lambda row, _: row["phase"] == "STARTED" or bool(row["refused"]),
    "find": lambda row, arguments: row["exec_id"] in arguments[0],
}
"""Reads whose answer depends on the table alone, and the rows that they may show, with their arguments. While no such
row has been written they need not be asked again."""


class _Shared:
    """One SQLite connection for all universes of this operating system's process: making tables takes long."""

    def __init__(self) -> None:
        self.now: Callable[[], datetime] = lambda: EPOCH
        self.noted: Callable[..., None] | None = None
        how = {"check_same_thread": False, "cached_statements": 1000}
        self.engine = create_engine("sqlite://", poolclass=StaticPool, connect_args=how)
        event.listen(self.engine, "connect", self._prepare)
        metadata.create_all(self.engine)
        old, new = (", ".join(f"{side}.{column}" for column in COLUMNS) for side in ("OLD", "NEW"))
        none = ", ".join("NULL" for _ in COLUMNS)
        with self.engine.begin() as conn:
            for operation, before, after in (("INSERT", none, new), ("UPDATE", old, new), ("DELETE", old, none)):
                conn.exec_driver_sql(
                    f"CREATE TRIGGER note_{operation} AFTER {operation} ON ecs_workload "
                    f"BEGIN SELECT note({before}, {after}); END"
                )

        self.connection = FastConnection(self.engine.connect())
        self.connection.clock = lambda: self.now()  # noqa: PLW0108 - it is another one in each universe

    def _prepare(self, connection: sqlite3.Connection, _record: object) -> None:
        connection.create_function("strftime", -1, self._strftime)
        connection.create_function("note", -1, self._note)

    def _strftime(self, _format: str, _now: str, modifier: str = "0 seconds") -> str:
        moment = self.now() + timedelta(seconds=float(modifier.split(maxsplit=1)[0]))
        return moment.replace(tzinfo=None).isoformat(" ", "microseconds")

    def _note(self, *values: Any) -> None:
        if self.noted:
            self.noted(values[: len(COLUMNS)], values[len(COLUMNS) :])


_shared: _Shared | None = None


@dataclass
class Weather:
    """How the database treats those who ask. Shares of calls; `down` refuses all."""

    down: bool = False
    refuses: float = 0.0
    """Not done, and an error."""
    forgets: float = 0.0
    """Done, and an error all the same."""


class DatabaseDown(Exception):
    """What the shim's side of the code meets when the database is down."""


class Database:
    """The tables, empty at first."""

    def __init__(self, sim: Sim, skew: float) -> None:
        global _shared  # noqa: PLW0603 - see _Shared
        self.sim, self.skew = sim, skew
        _shared = _shared or _Shared()
        self.engine: Any = _shared.connection
        self.weather = Weather()
        self.written: list[tuple[Row | None, Row | None]] = []
        """Every write to a row that was committed, before and after."""
        self.restored = 0
        self._noted: list[tuple[tuple[Any, ...], tuple[Any, ...]]] = []
        _shared.noted = None
        with self.engine.begin() as conn:
            for table in metadata.sorted_tables:
                conn.exec_driver_sql(f"DELETE FROM {table.name}")
        _shared.now, _shared.noted = self.now, lambda before, after: self._noted.append((before, after))

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.sim.now + self.skew)

    def committed(self, writer: str, via: str, epoch: int | None = None, lease: str = "") -> None:
        """Tell the trace what the transaction that has just ended wrote."""
        if not self._noted:
            return
        noted, self._noted = self._noted, []
        for before, after in noted:
            old = None if before[0] is None else dict(zip(COLUMNS, before, strict=True))
            new = None if after[0] is None else dict(zip(COLUMNS, after, strict=True))
            self.written.append((old, new))
            self.sim.note("row", who=writer, via=via, epoch=epoch, lease=lease, old=old, new=new)
        self.sim.happen()

    def refused(self) -> bool:
        """Whether the database refuses this transaction."""
        weather = self.weather
        return weather.down or (weather.refuses > 0 and self.sim.chance.random() < weather.refuses)

    def forgotten(self) -> bool:
        """Whether this transaction's answer is lost on its way."""
        weather = self.weather
        return weather.down or (weather.forgets > 0 and self.sim.chance.random() < weather.forgets)

    def transaction(self, process: Process, via: str) -> Transaction:
        """One transaction of a scheduler. What happens in the block is atomic: there is no seam within."""
        return Transaction(self, process, via)

    # -- for the chaos --------------------------------------------------------------------------------------------

    def backup(self) -> bytes:
        taken: bytes = self.engine.raw.serialize()
        return taken

    def restore(self, backup: bytes) -> None:
        # Not into the connection itself: SQLite 3.40 crashes at the next statement with a table-valued function.
        with closing(sqlite3.connect(":memory:")) as other:
            other.deserialize(backup)
            other.backup(self.engine.raw)
        self.engine.forget()
        self.restored += 1
        self._noted.clear()

    def rows(self) -> list[dict[str, Any]]:
        with self.engine.connect() as conn:
            found = conn.exec_driver_sql(f"SELECT {', '.join(COLUMNS)} FROM ecs_workload ORDER BY exec_id")
            return [dict(zip(COLUMNS, row, strict=True)) for row in found]

    def delete(self, exec_id: str) -> None:
        """Somebody deletes a row by hand."""
        with self.engine.begin() as conn:
            conn.exec_driver_sql("DELETE FROM ecs_workload WHERE exec_id = ?", (exec_id,))
        self.committed("somebody", "by hand")


class Transaction:
    """See `Database.transaction`. A class, because a generator takes longer than most of what is done within."""

    __slots__ = ("_database", "_inner", "_process", "_via")

    def __init__(self, database: Database, process: Process, via: str) -> None:
        self._database, self._process, self._via = database, process, via

    def __enter__(self) -> Connection:
        database = self._database
        self._process.seam(f"{self._via}: begin")
        if database.refused():
            raise DatabaseDown(self._via)
        self._inner = database.engine.begin()
        connection: Connection = self._inner.__enter__()
        return connection

    def __exit__(self, *error: Any) -> None:
        database, via = self._database, self._via
        self._inner.__exit__(*error)
        if error[0] is not None:
            database._noted.clear()
            return
        database.committed(self._process.name, via)
        if database.forgotten():
            database.sim.note("commit_unknown", who=self._process.name, via=via)
            raise DatabaseDown(f"{via}: the commit's answer was lost")
        self._process.seam(f"{via}: committed")


class StorePort:
    """The `Store` seam of one replica, with a seam of the simulation before and after each method."""

    def __init__(self, process: Process, database: Database, store: SqlStore) -> None:
        self._process, self._database, self._store = process, database, store
        self._remembered: dict[tuple[str, tuple[Any, ...]], Snapshot] = {}
        self._heard = self._restored = 0
        """How many writes to rows, and how many restored backups, what is remembered has outlived."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Made once for each method: after that it is an attribute."""
        method = getattr(self._store, name)

        def call(*arguments: Any) -> Any:
            return self._call(name, method, arguments)

        setattr(self, name, call)
        return call

    def _call(self, name: str, method: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        process, database = self._process, self._database
        process.seam(f"store.{name}")
        if database.refused():
            raise StoreUnavailable(f"store.{name}: the database is down")
        if name in _WRITES:
            epoch, lease = getattr(arguments[-1], "epoch", None), getattr(arguments[-1], "name", "")
            try:
                answer = method(*arguments)
            except BaseException as error:
                database._noted.clear()
                database.sim.note("refused_write", who=process.name, via=name, why=type(error).__name__, epoch=epoch)
                raise
            database.committed(process.name, name, epoch, lease)
            if name == "save" and len(answer) < len(arguments[0]):
                database.sim.note("overtaken", who=process.name, lost=len(arguments[0]) - len(answer))
            if database.forgotten():
                database.sim.note("commit_unknown", who=process.name, via=name)
                raise StoreUnavailable(f"store.{name}: the commit's answer was lost")
        else:
            answer = self._read(name, method, arguments)
        process.seam(f"store.{name} done")
        return answer

    def _read(self, name: str, method: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if name not in _SHOWS:
            return method(*arguments)
        if self._heard != len(self._database.written) or self._restored != self._database.restored:
            self._hear()
        key = (name, tuple([tuple(sorted(a)) if isinstance(a, set) else a for a in arguments]))
        known = self._remembered.get(key)
        if known is None:
            known = self._remembered[key] = method(*arguments)
            return known
        return Snapshot(self._database.now(), known.workloads)

    def _hear(self) -> None:
        """Forget what has been written to since."""
        database, remembered = self._database, self._remembered
        rows = [row for rows in database.written[self._heard :] for row in rows if row is not None]
        if self._restored != database.restored:
            remembered.clear()
        for name, arguments in list(remembered):
            shows = _SHOWS[name]
            if any(shows(row, arguments) for row in rows):
                del remembered[name, arguments]
        self._heard, self._restored = len(database.written), database.restored
