"""The documents that come from the table alone: the daemon tells them, and so does Airflow's API server."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DatabaseError

import reconciler
from reconciler.core.errors import StoreUnavailable
from reconciler.core.why import Circumstances
from reconciler.page import documents
from reconciler.store.components import announced
from reconciler.store.history import history
from reconciler.store.inspect import holders
from reconciler.store.listing import listing, pulse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sqlalchemy import Engine

    from reconciler.store.inspect import Holder
    from reconciler.store.listing import Pulse, Wanted

__all__ = ["State", "TableSource", "events", "health", "state", "told", "workloads"]


@dataclass(frozen=True, slots=True)
class State:
    """What the table says of the whole deployment."""

    holders: list[Holder]
    pulse: Pulse


@dataclass(frozen=True, slots=True)
class TableSource:
    """Implements `pages.Source` where there is no daemon to ask: controllers, rates and the last hour are its own."""

    engine: Engine
    deployment: str
    limit: int
    """[ecs_reconciler] max_running_tasks."""
    now: Callable[[], float]
    """Unix time."""
    airflow_url: str
    """Where Airflow's pages are, for links."""

    def status(self) -> dict[str, Any]:
        with _missing_tables():
            found, error = state(self.engine, self.deployment)
            trouble = [] if error else self._trouble()
        return {
            "deployment": self.deployment,
            "version": reconciler.__version__,
            "now": self.now(),
            "this_replica": None,
            "health": health(found, error, trouble),
            "table": found and told(found, self.limit),
            "launches": {"held": {}, "buckets": {}},
            "breakers": {},
            "controllers": [],
            "history": None,
        }

    def workloads(self, wanted: Wanted) -> dict[str, Any]:
        with _missing_tables():
            return workloads(
                self.engine,
                self.deployment,
                wanted,
                limit=self.limit,
                held=self._trouble(),
                airflow_url=self.airflow_url,
            )

    def events(self, wanted: Wanted) -> dict[str, Any]:
        with _missing_tables():
            return events(self.engine, self.deployment, wanted)

    def _trouble(self) -> list[str]:
        """What daemons have said in the table of why they hold launches."""
        return [c.trouble for c in announced(self.engine, self.deployment) if c.kind == "daemon" and c.trouble]


def state(engine: Engine, deployment: str) -> tuple[State | None, str | None]:
    """What the table says, or why it can not be asked."""
    try:
        return State(holders(engine, deployment), pulse(engine, deployment)), None
    except StoreUnavailable as error:
        return None, str(error)


def told(found: State, limit: int) -> dict[str, Any]:
    """The part `table` of the document `status`."""
    return {
        "leaders": [asdict(holder) for holder in found.holders],
        "quota": documents.quota(limit, found.pulse.by_phase),
        "oldest_pending_seconds": found.pulse.oldest_pending,
        "queues": found.pulse.queues,
    }


def workloads(
    engine: Engine, deployment: str, wanted: Wanted, *, limit: int, held: Sequence[str], airflow_url: str | None
) -> dict[str, Any]:
    """The document `workloads`. Raises StoreUnavailable."""
    found = listing(engine, deployment, wanted)
    around = Circumstances(
        headroom=max(0, limit - pulse(engine, deployment).in_flight),
        held=held[0] if held else None,
        leading=any(holder.valid for holder in holders(engine, deployment)),
    )
    lines = [documents.workload(w, found.now, around, airflow_url) for w in found.workloads]
    return {"workloads": lines, "truncated": found.truncated}


def events(engine: Engine, deployment: str, wanted: Wanted) -> dict[str, Any]:
    """The document `events`, the newest first. Raises StoreUnavailable."""
    return {"events": [documents.event(event) for event in reversed(history(engine, deployment, wanted))]}


def health(
    found: State | None,
    database: str | None,
    held: Sequence[str],
    breakers: Mapping[str, bool] = MappingProxyType({}),
    late: Sequence[str] = (),
) -> dict[str, Any]:
    """One word, and a sentence for each thing that is wrong."""
    down = []
    if database:
        down.append(f"the database can not be reached: {database}")
    elif found is None or not any(leader.valid for leader in found.holders):
        down.append("no daemon leads: nothing is launched or observed")
    degraded = [f"launches are held behind one probe: {reason}" for reason in held]
    degraded += [
        f"too much looks wrong at once ({name}): nothing is concluded from it" for name, on in breakers.items() if on
    ]
    degraded += late
    return {"state": "down" if down else "degraded" if degraded else "ok", "reasons": down + degraded}


@contextmanager
def _missing_tables() -> Iterator[None]:
    """What Airflow migrates later than it is started is no reason for an error page."""
    try:
        yield
    except DatabaseError as error:
        text = str(error.orig).strip().partition("\n")[0]
        raise StoreUnavailable(f"its tables can not be read ({text}): run `airflow db migrate`") from error
