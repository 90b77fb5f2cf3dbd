"""Launches, retries, failed starts and stops in Airflow's audit log of their task instance.

Airflow's own way, `log_task_event`, loses the rows (SQLAlchemy holds them weakly), so they are inserted here, in one
transaction with the mark that says so: each is delivered once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from reconciler.core.phase import Phase
from reconciler.store import told

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from sqlalchemy import Connection

    from reconciler.airflow.delivery import Owner, Transactions
    from reconciler.core.task import TaskKey

__all__ = ["Audit", "Entry", "entries"]

LIMIT: Final = 50
"""How many rows one heartbeat writes at most."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the audit log."""

    key: TaskKey
    at: datetime
    event: str
    text: str


_ENDS: Final = {
    Phase.PENDING: ("ecs start failed", "did not start, and is tried again"),
    Phase.FAILED_START: ("ecs start failed", "did not start"),
    Phase.CANCELLED: ("ecs launch cancelled", "was cancelled before it started"),
    Phase.EXITED: ("ecs task stopped", "ended"),
    Phase.LOST: ("ecs task lost", "is lost"),
}


def entries(u: told.Untold) -> list[Entry]:
    """What is to be told of a launch: that ECS has a task for it, and how that ended."""
    found = []
    if u.told == 0 and u.task_arn:
        event = "ecs task launched" if u.attempt == 1 else "ecs task launched again"
        found.append(Entry(u.key, u.intent_at, event, f"attempt {u.attempt}: {u.task_arn}"))
    if u.closed_at is not None:
        phase, _, reason = (u.verdict or Phase.LOST).partition(": ")
        event, what = _ENDS[Phase(phase)]
        found.append(Entry(u.key, u.closed_at, event, f"attempt {u.attempt} {what}: {reason or 'no reason was given'}"))
    return found


class Audit:
    """Writes what is new. `write` inserts rows into Airflow's audit log on the connection that it is given."""

    def __init__(
        self, transactions: Transactions, write: Callable[[Connection, Sequence[Entry]], None], owner: Owner
    ) -> None:
        self._transactions = transactions
        self._write = write
        self._owner = owner
        self._more = False

    def tell(self) -> None:
        """One heartbeat's share."""
        if not self._more:
            # Most of the time there is nothing, and no reason to keep others from writing.
            with self._transactions.read() as connection:
                if not self._untold(connection, lock=False):
                    return
        with self._transactions.begin() as connection:
            some: list[told.Untold] = []
            rows: list[Entry] = []
            for u in self._untold(connection, lock=True):
                if len(rows) + len(entries(u)) > LIMIT:
                    break
                some.append(u)
                rows += entries(u)
            if rows:
                self._write(connection, rows)
                told.mark(connection, some)
        self._more = bool(rows)

    def _untold(self, connection: Connection, *, lock: bool) -> list[told.Untold]:
        limit = LIMIT if lock else 1
        return told.untold(connection, self._owner.deployment, self._owner.job_id, limit, lock=lock)
