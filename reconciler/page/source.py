"""The documents of the daemon: what the table says, and what this replica knows besides."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import reconciler
from reconciler.core.errors import StoreUnavailable
from reconciler.core.why import Circumstances, duration
from reconciler.page import documents
from reconciler.store.inspect import holders
from reconciler.store.listing import listing, pulse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import Engine

    from reconciler.ecs.ratelimit import Level
    from reconciler.page.board import Board
    from reconciler.seams import Lease
    from reconciler.store.inspect import Holder
    from reconciler.store.listing import Pulse, Wanted

__all__ = ["DaemonSource", "health"]

LATE: Final = 120.0
"""Seconds without a good pass after which a controller of the leader is not well."""


@dataclass(frozen=True, slots=True)
class DaemonSource:
    """Implements `pages.Source`."""

    engine: Engine
    deployment: str
    limit: int
    """[ecs_reconciler] max_running_tasks."""
    board: Board
    held: Callable[[], Mapping[str, str]]
    """Why launches are held, by cause."""
    lease: Callable[[], Lease | None]
    levels: Callable[[], Mapping[str, Level]]
    now: Callable[[], float]
    """Unix time."""
    airflow_url: str | None = None
    """[api] base_url, for links."""

    def status(self) -> dict[str, Any]:
        lease, passes, now = self.lease(), self.board.passes(), self.now()
        held = dict(self.held()) if lease else {}
        breakers = self.board.breakers if lease else {}
        late = [
            f"{name} has had no good pass for {_ago(now - last.succeeded_at)}"
            for name in documents.CONTROLLERS
            if lease and (last := passes.get(name)) and last.succeeded_at and now - last.succeeded_at > LATE
        ]
        table, error = self._table()
        return {
            "deployment": self.deployment,
            "version": reconciler.__version__,
            "now": now,
            "this_replica": {"leading": lease is not None, "holder": lease and lease.holder},
            "health": health(table.holders if table else None, error, held, breakers, late),
            "table": _told(table, self.limit),
            "launches": {"held": held, "buckets": {name: asdict(level) for name, level in self.levels().items()}},
            "breakers": breakers,
            "controllers": documents.controllers(passes, table.pulse if table else None),
            "history": self.board.history(),
        }

    def workloads(self, wanted: Wanted) -> dict[str, Any]:
        found = listing(self.engine, self.deployment, wanted)
        held = list(self.held().values()) if self.lease() else []
        around = Circumstances(
            headroom=max(0, self.limit - pulse(self.engine, self.deployment).in_flight),
            held=held[0] if held else None,
            leading=any(holder.valid for holder in holders(self.engine, self.deployment)),
        )
        lines = [documents.workload(w, found.now, around, self.airflow_url) for w in found.workloads]
        return {"workloads": lines, "truncated": found.truncated}

    def events(self, limit: int) -> dict[str, Any]:
        return {"events": self.board.events(limit)}

    def _table(self) -> tuple[_Table | None, str | None]:
        try:
            return _Table(holders(self.engine, self.deployment), pulse(self.engine, self.deployment)), None
        except StoreUnavailable as error:
            return None, str(error)


@dataclass(frozen=True, slots=True)
class _Table:
    holders: list[Holder]
    pulse: Pulse


def _told(table: _Table | None, limit: int) -> dict[str, Any] | None:
    if table is None:
        return None
    return {
        "leaders": [asdict(holder) for holder in table.holders],
        "quota": documents.quota(limit, table.pulse.by_phase),
        "oldest_pending_seconds": table.pulse.oldest_pending,
        "queues": table.pulse.queues,
    }


def health(
    leaders: list[Holder] | None,
    database: str | None,
    held: Mapping[str, str],
    breakers: Mapping[str, bool],
    late: list[str],
) -> dict[str, Any]:
    """One word, and a sentence for each thing that is wrong."""
    down = []
    if database:
        down.append(f"the database can not be reached: {database}")
    elif not any(leader.valid for leader in leaders or ()):
        down.append("no daemon leads: nothing is launched or observed")
    degraded = [f"launches are held behind one probe: {reason}" for reason in held.values()]
    degraded += [
        f"too much looks wrong at once ({name}): nothing is concluded from it" for name, on in breakers.items() if on
    ]
    degraded += late
    return {"state": "down" if down else "degraded" if degraded else "ok", "reasons": down + degraded}


def _ago(seconds: float) -> str:
    return duration(timedelta(seconds=seconds))
