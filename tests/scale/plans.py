"""What PostgreSQL does for a statement: the code's own statements, as they ran, explained with the rows they read."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from psycopg.sql import Literal
from sqlalchemy import event

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine

__all__ = ["Plan", "explained", "recorded"]

_BIG: Final = ("ecs_workload", "ecs_launch_attempt")
_PARAMETER: Final = re.compile(r"%\((\w+)\)s|(%%)")


@dataclass(slots=True)
class Plan:
    """What one execution did."""

    statement: str
    rows_read: int = 0
    """Rows of the big tables that were looked at, whether or not they were wanted."""
    rows_sorted: int = 0
    full_scans: list[str] = field(default_factory=list)
    """Tables that were read from end to end."""


@contextmanager
def recorded(engine: Engine) -> Iterator[dict[str, Any]]:
    """The statements on our tables that run on this engine, each with the parameters of one run."""
    statements: dict[str, Any] = {}

    def note(_conn: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, executemany: bool) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE", "INSERT", "WITH")) and "ecs_" in statement:
            statements[statement] = parameters[0] if executemany else parameters

    event.listen(engine, "before_cursor_execute", note)
    yield statements
    event.remove(engine, "before_cursor_execute", note)


def explained(conn: Connection, statement: str, parameters: Any, *, generic: bool) -> Plan:
    """Run the statement again and say how. The caller rolls back.

    `generic`: by the plan for any parameters, which PostgreSQL may choose for what psycopg has prepared. Otherwise by
    the plan for these.
    """
    dbapi = conn.connection.driver_connection
    values: list[str] = []

    def number(found: re.Match[str]) -> str:
        if found[2]:
            return "%"
        values.append(Literal(parameters[found[1]]).as_string(dbapi))
        return f"${len(values)}"

    text = _PARAMETER.sub(number, statement)
    mode = "force_generic_plan" if generic else "force_custom_plan"
    arguments = f"({', '.join(values)})" if values else ""
    with dbapi.cursor() as cursor:  # type: ignore[union-attr] # there is one
        cursor.execute(f"SET LOCAL plan_cache_mode = {mode}")
        cursor.execute(f"PREPARE explained AS {text}", prepare=False)
        cursor.execute(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) EXECUTE explained{arguments}", prepare=False)
        (found,) = cursor.fetchone()
        cursor.execute("DEALLOCATE explained")
    plan = Plan(statement)
    _walk(plan, found[0]["Plan"])
    return plan


def _walk(plan: Plan, node: dict[str, Any]) -> None:
    loops = node.get("Actual Loops", 1)
    rows = node.get("Actual Rows", 0) * loops
    removed = sum(node.get(f"Rows Removed by {why}", 0) for why in ("Filter", "Index Recheck")) * loops
    kind = node["Node Type"]
    if node.get("Relation Name") in _BIG and "Scan" in kind:
        plan.rows_read += rows + removed
        if kind == "Seq Scan":
            plan.full_scans.append(node["Relation Name"])
    if "Sort" in kind:
        plan.rows_sorted = max(plan.rows_sorted, rows)
    for inner in node.get("Plans", ()):
        _walk(plan, inner)
