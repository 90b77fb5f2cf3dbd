"""The workloads that pages and commands list: all that are open, and the last that ended. Bounded, and reads only."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, func, select

from reconciler.core.phase import IN_FLIGHT, TERMINAL, Desired, Phase
from reconciler.core.why import is_problem
from reconciler.store.engine import translated
from reconciler.store.holds import read_holds
from reconciler.store.rows import LIGHT, read, read_now
from reconciler.store.schema import finished, opened, workloads

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from sqlalchemy import ColumnElement, Engine, FromClause

    from reconciler.core.holds import Holds
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
    task_id: str | None = None
    run_id: str | None = None
    map_index: int | None = None
    dags: frozenset[str] | None = None
    """Only of these DAGs: those that the reader may see."""
    limit: int = 200

    @property
    def one_task(self) -> bool:
        """Names one task: all of its workloads are searched, and not only the last of all that ended."""
        return bool(self.dag_id and self.task_id)


@dataclass(frozen=True, slots=True)
class Listing:
    """What was found: problems first unless that was not wanted, then the newest change first."""

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
    shards: frozenset[str]
    """The accounts and regions in which tasks may run now."""
    holds: Holds
    """What an operator holds back."""

    @property
    def in_flight(self) -> int:
        return sum(count for phase, count in self.by_phase.items() if phase in IN_FLIGHT)

    def in_flight_of(self, queue: str) -> int:
        return sum(count for phase, count in self.queues.get(queue, {}).items() if phase in IN_FLIGHT)


_w: Final = workloads.c
_OPEN: Final = (
    select(_w.queue, _w.phase, _w.desired, _w.shard, func.count(), func.min(_w.created_at))
    .where(_w.deployment == bindparam("of"), opened(workloads))
    .group_by(_w.queue, _w.phase, _w.desired, _w.shard)
)


def listing(engine: Engine, deployment: str, wanted: Wanted, *, problems_first: bool = True) -> Listing:
    """Open workloads and the last that ended. Raises StoreUnavailable."""
    limit = min(max(1, wanted.limit), MOST)
    found: list[Workload] = []
    with translated(), engine.connect() as conn:
        now = read_now(conn)
        if wanted.phase not in TERMINAL:
            still = select(*LIGHT).where(_w.deployment == bindparam("of"), opened(workloads), *_filters(wanted))
            first = [_w.start_failures.desc()] if problems_first else []
            found += read(conn, still.order_by(*first, _w.updated_at.desc()).limit(limit + 1), of=deployment)
        if wanted.phase is None or wanted.phase in TERMINAL:
            found += read(conn, _ended(wanted, limit + 1), of=deployment)
    found.sort(key=lambda w: (problems_first and is_problem(w), w.updated_at), reverse=True)
    return Listing(now, tuple(found[:limit]), len(found) > limit)


def pulse(engine: Engine, deployment: str) -> Pulse:
    """What is open now, from one indexed statement, and what is held. Raises StoreUnavailable."""
    by_phase: Counter[Phase] = Counter()
    queues: dict[str, Counter[Phase]] = {}
    unwanted, oldest = 0, None
    shards: set[str] = set()
    with translated(), engine.connect() as conn:
        now = read_now(conn)
        holds = read_holds(conn, deployment)
        for queue, phase, desired, shard, count, first in conn.execute(_OPEN, {"of": deployment}):
            by_phase[Phase(phase)] += count
            if phase in IN_FLIGHT and shard:
                shards.add(shard)
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
        shards=frozenset(shards),
        holds=holds,
    )


def _ended(wanted: Wanted, limit: int) -> Any:
    ended = select(*LIGHT).where(_w.deployment == bindparam("of"), finished(workloads))
    newest = ended.order_by(_w.updated_at.desc())
    if wanted.one_task:
        return newest.where(*_filters(wanted)).limit(limit)
    # Filtered in what the index gives first: a join with it reads the whole table where that is small enough.
    last = newest.limit(LOOK_BACK).subquery()
    return select(last).where(*_filters(wanted, last)).order_by(last.c.updated_at.desc()).limit(limit)


def _filters(wanted: Wanted, of: FromClause = workloads) -> list[ColumnElement[bool]]:
    asked = {
        "phase": wanted.phase and wanted.phase.value,
        "dag_id": wanted.dag_id,
        "queue": wanted.queue,
        "task_id": wanted.task_id,
        "run_id": wanted.run_id,
        "map_index": wanted.map_index,
    }
    found = [of.c[name] == value for name, value in asked.items() if value not in (None, "")]
    return found if wanted.dags is None else [*found, of.c.dag_id.in_(sorted(wanted.dags))]
