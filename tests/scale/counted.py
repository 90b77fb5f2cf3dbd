"""What a piece of work costs the database: statements, rows sent to us, rows looked at. No noise changes counts."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import event

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

__all__ = ["Cost", "counted"]

_READ = "SELECT sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_user_tables WHERE relname LIKE 'ecs\\_%%'"


@dataclass(slots=True)
class Cost:
    """Of one piece of work."""

    statements: Counter[str] = field(default_factory=Counter)
    """Executions by verb. One with many sets of parameters counts once."""
    returned: int = 0
    """Rows that came back or were changed."""
    read: int = 0
    """Rows that the server looked at, in tables and by way of indexes."""

    @property
    def writes(self) -> int:
        """Statements that change something."""
        return sum(count for verb, count in self.statements.items() if verb in ("INSERT", "UPDATE", "DELETE"))


@contextmanager
def counted(engine: Engine) -> Iterator[Cost]:
    """Count what happens on this engine in the block. Only one of its connections may be in use at a time."""
    cost = Cost()
    before = _rows_read(engine)

    def note(_conn: Any, cursor: Any, statement: str, _parameters: Any, _context: Any, _many: bool) -> None:
        cost.statements[statement.split(None, 1)[0]] += 1
        cost.returned += max(0, cursor.rowcount)

    event.listen(engine, "after_cursor_execute", note)
    try:
        yield cost
    finally:
        event.remove(engine, "after_cursor_execute", note)
    cost.read = _rows_read(engine) - before


def _rows_read(engine: Engine) -> int:
    """The pool gives the connection that was used last, and what its server process has counted is told at once."""
    with engine.connect() as conn:
        conn.exec_driver_sql("SELECT pg_stat_force_next_flush()")
        conn.rollback()
        conn.exec_driver_sql("SELECT 1")  # the end of this transaction tells it
        conn.rollback()
        return int(conn.exec_driver_sql(_READ).scalar_one() or 0)
