"""What people ask of the table: who leads, and what became of one task. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, func, or_, select

from reconciler.store.engine import translated
from reconciler.store.rows import WHOLE, DbNow, among, batches, read, read_now, unreadable
from reconciler.store.schema import attempts, leases, workloads

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from datetime import datetime

    from sqlalchemy import Engine

    from reconciler.core.task import Workload

__all__ = ["Attempt", "Heard", "Holder", "attempts_of", "heard", "holders", "workloads_of"]


@dataclass(frozen=True, slots=True)
class Holder:
    """A lease and who holds it."""

    name: str
    holder: str
    epoch: int
    valid: bool


@dataclass(frozen=True, slots=True)
class Attempt:
    """One launch of a workload, as the log of launches has it."""

    attempt: int
    intent_at: datetime
    epoch: int
    closed_at: datetime | None
    verdict: str | None
    task_arn: str | None


@dataclass(frozen=True, slots=True)
class Heard:
    """Whether a scheduler has acknowledged a workload as it is now."""

    now: datetime
    acknowledged: bool
    age: float
    """Seconds since the row was last changed."""
    workload: str | None
    """Airflow's workload as JSON, without its token."""


_w: Final = workloads.c
_HOLDERS: Final = select(
    leases.c.name, leases.c.holder, leases.c.epoch, (leases.c.expires_at > DbNow()).label("valid")
).where(func.substr(leases.c.name, 1, bindparam("length")) == bindparam("prefix"))
_HEARD: Final = select(_w.exec_id, _w.acked_version, _w.version, _w.updated_at, _w.workload).where(
    _w.deployment == bindparam("of"), among(_w.exec_id, "ids")
)
_ATTEMPTS: Final = (
    select(*(attempts.c[name] for name in Attempt.__slots__))
    .where(attempts.c.exec_id == bindparam("exec_id"))
    .order_by(attempts.c.attempt)
)


def holders(engine: Engine, deployment: str) -> list[Holder]:
    """The leases of a deployment. Raises StoreUnavailable."""
    prefix = f"{deployment}/"
    with translated(), engine.connect() as conn:
        rows = conn.execute(_HOLDERS, {"prefix": prefix, "length": len(prefix)}).mappings()
        return [Holder(**{**row, "valid": bool(row["valid"])}) for row in rows]


def workloads_of(  # noqa: PLR0917 - a task instance has that many names
    engine: Engine,
    deployment: str,
    dag_id: str,
    task_id: str,
    run_id: str | None = None,
    map_index: int | None = None,
    try_number: int | None = None,
    limit: int = 10,
    on_unreadable: Callable[[str, str], None] = lambda *_: None,
) -> list[Workload]:
    """The workloads of a task, the newest first, with their spec. None matches everything. Raises StoreUnavailable.

    `on_unreadable` is told the exec_id of each that this release can not read, and why.
    """
    asked: dict[str, Any] = {"run_id": run_id, "map_index": map_index, "try_number": try_number}
    statement = select(*WHOLE).where(
        _w.deployment == deployment,
        _w.dag_id == dag_id,
        or_(_w.task_id == task_id, _w.ti_id == task_id),
        *(_w[name] == value for name, value in asked.items() if value is not None),
    )
    with translated(), unreadable(engine, on_unreadable).connect() as conn:
        return read(conn, statement.order_by(_w.created_at.desc(), _w.exec_id).limit(limit))


def attempts_of(engine: Engine, exec_id: str) -> list[Attempt]:
    """All launches of a workload, the first first. Raises StoreUnavailable."""
    with translated(), engine.connect() as conn:
        return [Attempt(**row) for row in conn.execute(_ATTEMPTS, {"exec_id": exec_id}).mappings()]


def heard(engine: Engine, deployment: str, exec_ids: Collection[str]) -> dict[str, Heard]:
    """Which outcomes have been acknowledged, by exec_id. Raises StoreUnavailable."""
    found: dict[str, Heard] = {}
    with translated(), engine.connect() as conn:
        now = read_now(conn)
        for ids in batches(exec_ids):
            for exec_id, acked, version, at, workload in conn.execute(_HEARD, {"of": deployment, "ids": ids}):
                found[exec_id] = Heard(now, acked >= version, (now - at).total_seconds(), workload)
    return found
