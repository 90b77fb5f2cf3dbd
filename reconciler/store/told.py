"""Launches that Airflow's audit log does not have yet: for a scheduler, on a connection whose transaction it owns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Integer, Select, bindparam, literal_column, select, update

from reconciler.core.task import TaskKey
from reconciler.store import schema
from reconciler.store.rows import among, joined
from reconciler.store.schema import attempts, workloads

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import Connection

__all__ = ["Untold", "mark", "untold"]


@dataclass(frozen=True, slots=True)
class Untold:
    """One launch of a task instance, as far as it has come."""

    exec_id: str
    attempt: int
    told: int
    """How much of it the audit log has: nothing, its start, or its end too."""
    task_arn: str | None
    intent_at: datetime
    closed_at: datetime | None
    verdict: str | None
    """The phase that the launch ended in, and why, as `PHASE: reason`."""
    key: TaskKey


_a: Final = attempts.c
_w: Final = workloads.c
_LAUNCH: Final = [_a[name] for name in Untold.__slots__[:-1]]
_KEY: Final = (_w.dag_id, _w.task_id, _w.run_id, _w.map_index, _w.try_number)


def _untold() -> Select[Any]:
    return (
        select(*_LAUNCH, *_KEY)
        .join_from(attempts, workloads, _a.exec_id == _w.exec_id)
        .where(
            schema.untold(attempts),
            _w.deployment == bindparam("deployment"),
            _w.owner_job_id == bindparam("owner"),
            # A callback belongs to no task instance, and has no page in Airflow.
            _w.kind == literal_column("'task'"),
        )
        .order_by(_a.exec_id, _a.attempt)
        .limit(bindparam("limit", type_=Integer))
    )


_LOOK: Final = _untold()
_LOCK: Final = _LOOK.with_for_update(of=attempts, skip_locked=True)
_MARK: Final = (
    update(attempts)
    .where(
        among(_a.exec_id, "ids"),  # no index finds the pairs
        among(joined(_a.exec_id, _a.attempt), "launches"),
    )
    .values(told=bindparam("now_told", type_=Integer))
)


def untold(conn: Connection, deployment: str, owner_job_id: int, limit: int, *, lock: bool) -> list[Untold]:
    """Launches of this owner that have something to tell. With `lock`, no other scheduler tells them meanwhile."""
    their = {"deployment": deployment, "owner": owner_job_id, "limit": limit}
    rows = conn.execute(_LOCK if lock else _LOOK, their)
    return [_made(row) for row in rows]


def _made(row: Sequence[Any]) -> Untold:
    """By position: a scheduler waits."""
    fields: list[Any] = [*row[: len(_LAUNCH)], TaskKey(*row[len(_LAUNCH) :])]
    return Untold(*fields)


def mark(conn: Connection, some: Sequence[Untold]) -> None:
    """The audit log has these now, as they were read: their start, and their end if they had one."""
    for now_told in (1, 2):
        now = [u for u in some if now_told == (2 if u.closed_at else 1)]
        if now:
            launches = [f"{u.exec_id} {u.attempt}" for u in now]
            conn.execute(_MARK, {"ids": [u.exec_id for u in now], "launches": launches, "now_told": now_told})
