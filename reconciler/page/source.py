"""The documents of the daemon: what the table says, and what this replica knows besides."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import reconciler
from reconciler.core.why import duration
from reconciler.page import documents, table
from reconciler.store.listing import Wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import Engine

    from reconciler.ecs.ratelimit import Level
    from reconciler.page.board import Board
    from reconciler.seams import Lease
__all__ = ["DaemonSource"]

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
        found, error = table.state(self.engine, self.deployment)
        return {
            "deployment": self.deployment,
            "version": reconciler.__version__,
            "now": now,
            "this_replica": {"leading": lease is not None, "holder": lease and lease.holder},
            "health": table.health(found, error, list(held.values()), breakers, late),
            "table": found and table.told(found, self.limit),
            "launches": {"held": held, "buckets": {name: asdict(level) for name, level in self.levels().items()}},
            "breakers": breakers,
            "controllers": documents.controllers(passes, found.pulse if found else None),
            "history": self.board.history(),
        }

    def workloads(self, wanted: Wanted) -> dict[str, Any]:
        held = list(self.held().values()) if self.lease() else []
        return table.workloads(
            self.engine, self.deployment, wanted, limit=self.limit, held=held, airflow_url=self.airflow_url
        )

    def events(self, wanted: Wanted) -> dict[str, Any]:
        if wanted == Wanted(limit=wanted.limit):
            return {"events": self.board.events(wanted.limit)}
        return table.events(self.engine, self.deployment, wanted)


def _ago(seconds: float) -> str:
    return duration(timedelta(seconds=seconds))
