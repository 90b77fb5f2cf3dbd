"""The documents of the daemon: what the table says, and what this replica knows besides."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import reconciler
from reconciler.page import documents, table
from reconciler.seams import shard_lease
from reconciler.store.listing import Wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import Engine

    from reconciler.ecs.ratelimit import Level
    from reconciler.page.board import Board
    from reconciler.page.table import Rules
    from reconciler.seams import Lease
__all__ = ["DaemonSource"]

LATE: Final = 120.0
"""Seconds without a good pass after which a controller of the leader is not well."""


@dataclass(frozen=True, slots=True)
class DaemonSource:
    """Implements `pages.Source`."""

    engine: Engine
    deployment: str
    rules: Rules
    board: Board
    held: Callable[[], Mapping[str, str]]
    """Why launches are held, by cause."""
    held_of: Callable[[str], str | None]
    """Why launches of a queue are held."""
    leases: Callable[[], Sequence[Lease]]
    """Those that this replica holds: one for each account and region that it leads."""
    levels: Callable[[], Mapping[str, Level]]
    now: Callable[[], float]
    """Unix time."""

    def status(self) -> dict[str, Any]:
        leases, now = self.leases(), self.now()
        held = dict(self.held()) if leases else {}
        breakers = self.board.breakers if leases else {}
        late = self.board.late(now, LATE) if leases else []
        found, error = table.state(self.engine, self.deployment)
        return {
            "deployment": self.deployment,
            "version": reconciler.__version__,
            "now": now,
            "this_replica": {
                "leading": bool(leases),
                "holder": next((lease.holder for lease in leases), None),
                "leads": sorted(lease.name.removeprefix(shard_lease(self.deployment, "")) for lease in leases),
            },
            "health": table.health(found, error, list(held.values()), breakers, late),
            "table": found and table.told(found, self.rules.limit),
            "launches": {"held": held, "buckets": {name: asdict(level) for name, level in self.levels().items()}},
            "breakers": breakers,
            "controllers": documents.controllers(self.board.passes(), found.pulse if found else None),
            "history": self.board.history(),
        }

    def workloads(self, wanted: Wanted) -> dict[str, Any]:
        return table.workloads(self.engine, self.deployment, wanted, self.rules, self.held_of)

    def events(self, wanted: Wanted) -> dict[str, Any]:
        if wanted == Wanted(limit=wanted.limit):
            return {"events": self.board.events(wanted.limit)}
        return table.events(self.engine, self.deployment, wanted)
