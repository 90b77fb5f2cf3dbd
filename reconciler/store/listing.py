"""The workloads that the status page shows: all that are open, and the last that ended. Bounded, and reads only."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, func, select

from reconciler.core.phase import IN_FLIGHT, TERMINAL, Desired, Phase
from reconciler.core.why import is_problem
from reconciler.store.engine import translated
from reconciler.store.rows import LIGHT, read, read_now
from reconciler.store.schema import finished, opened, workloads

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from sqlalchemy import ColumnElement, Engine

    from reconciler.core.task import Workload

__all__ = ["MOST", "Listing", "Pulse", "Wanted", "listing", "pulse"]

MOST: Final = 1000
"""How many workloads one answer may hold."""
LOOK_BACK: Final = 5000
"""How many of the workloads that ended last are searched. The table may hold millions."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which workloads to list. None matches everything."""

    phase: Phase | None = None
    dag_id: str | None = None
    queue: str | None = None
    limit: int = 200


@dataclass(frozen=True, slots=True)
class Listing:
    """What was found, problems first, then the newest change first."""

    now: datetime
    workloads: tuple[Workload, ...]
    truncated: bool
    """There are more than were asked for."""


@dataclass(frozen=True, slots=True)
class Pulse:
    """The open workloads, counted."""

    by_phase: Mapping[Phase, int]
    queues: dict[str, dict[str, int]]
    """By queue and phase."""
    oldest_pending: float
    """Seconds."""
    unwanted: int
    """To be cancelled or stopped."""

    @property
    def in_flight(self) -> int:
        return sum(count for phase, count in self.by_phase.items() if phase in IN_FLIGHT)


_w: Final = workloads.c
_OPEN: Final = (
    select(_w.queue, _w.phase, _w.desired, func.count(), func.min(_w.created_at))
    .where(_w.deployment == bindparam("of"), opened(workloads))
    .group_by(_w.queue, _w.phase, _w.desired)
)


def listing(engine: Engine, deployment: str, wanted: Wanted) -> Listing:
    """Open workloads and the last that ended. Raises StoreUnavailable."""
    limit = min(max(1, wanted.limit), MOST)
    found: list[Workload] = []
    with translated(), engine.connect() as conn:
        now = read_now(conn)
        if wanted.phase not in TERMINAL:
            still = select(*LIGHT).where(_w.deployment == bindparam("of"), opened(workloads), *_filters(wanted))
            newest = still.order_by(_w.start_failures.desc(), _w.updated_at.desc()).limit(limit + 1)
            found += read(conn, newest, of=deployment)
        if wanted.phase is None or wanted.phase in TERMINAL:
            found += read(conn, _ended(wanted, limit + 1), of=deployment)
    found.sort(key=lambda w: (is_problem(w), w.updated_at), reverse=True)
    return Listing(now, tuple(found[:limit]), len(found) > limit)


def pulse(engine: Engine, deployment: str) -> Pulse:
    """What is open now, from one indexed statement. Raises StoreUnavailable."""
    by_phase: Counter[Phase] = Counter()
    queues: dict[str, Counter[Phase]] = {}
    unwanted, oldest = 0, None
    with translated(), engine.connect() as conn:
        now = read_now(conn)
        for queue, phase, desired, count, first in conn.execute(_OPEN, {"of": deployment}):
            by_phase[Phase(phase)] += count
            queues.setdefault(queue, Counter())[Phase(phase)] += count
            if desired == Desired.STOP:
                unwanted += count
            elif phase == Phase.PENDING:
                oldest = min(oldest or first, first)
    return Pulse(
        by_phase=by_phase,
        queues={queue: {phase.value: n for phase, n in found.items()} for queue, found in sorted(queues.items())},
        oldest_pending=round((now - oldest).total_seconds(), 1) if oldest else 0.0,
        unwanted=unwanted,
    )


def _ended(wanted: Wanted, limit: int) -> Any:
    """The last that ended, in the order of the index, until there are enough."""
    last = (
        select(*LIGHT)
        .where(_w.deployment == bindparam("of"), finished(workloads))
        .order_by(_w.updated_at.desc())
        .limit(LOOK_BACK)
        .subquery()
    )
    return select(last).where(*_filters(wanted, last.c)).order_by(last.c.updated_at.desc()).limit(limit)


def _filters(wanted: Wanted, columns: Any = _w) -> list[ColumnElement[bool]]:
    asked = {
        columns.phase: wanted.phase and wanted.phase.value,
        columns.dag_id: wanted.dag_id,
        columns.queue: wanted.queue,
    }
    return [column == value for column, value in asked.items() if value]
