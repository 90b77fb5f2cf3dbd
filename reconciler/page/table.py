"""The documents that come from the table alone: the daemon tells them, and so does Airflow's API server."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DatabaseError

import reconciler
from reconciler.core.errors import StoreUnavailable
from reconciler.core.why import Circumstances
from reconciler.page import documents
from reconciler.seams import shard_lease
from reconciler.store.components import announced
from reconciler.store.history import history
from reconciler.store.inspect import holders
from reconciler.store.listing import listing, pulse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sqlalchemy import Engine

    from reconciler.core.shares import Shares
    from reconciler.store.inspect import Holder
    from reconciler.store.listing import Pulse, Wanted

__all__ = ["Rules", "State", "TableSource", "events", "health", "state", "told", "workloads"]


@dataclass(frozen=True, slots=True)
class State:
    """What the table says of the whole deployment."""

    deployment: str
    holders: list[Holder]
    pulse: Pulse

    @property
    def led(self) -> bool:
        """Whether any daemon leads anywhere."""
        return any(holder.valid for holder in self.holders)

    @property
    def alone(self) -> list[str]:
        """The accounts and regions in which tasks may run and nobody leads. A lease that is not used stays behind."""
        led = {holder.name for holder in self.holders if holder.valid}
        return sorted(shard for shard in self.pulse.shards if shard_lease(self.deployment, shard) not in led)


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides over launches and is not in the table."""

    limit: int
    """[ecs_reconciler] max_running_tasks."""
    shares: Shares
    """How many tasks of which queues may run at once."""
    airflow_url: str | None
    """Where Airflow's pages are, for links."""


@dataclass(frozen=True, slots=True)
class TableSource:
    """Implements `pages.Source` where there is no daemon to ask: controllers, rates and the last hour are its own."""

    engine: Engine
    deployment: str
    rules: Rules
    now: Callable[[], float]
    """Unix time."""

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
            "table": found and told(found, self.rules.limit),
            "launches": {"held": {}, "buckets": {}},
            "breakers": {},
            "controllers": [],
            "history": None,
        }

    def workloads(self, wanted: Wanted) -> dict[str, Any]:
        with _missing_tables():
            return workloads(self.engine, self.deployment, wanted, self.rules, self._held)

    def events(self, wanted: Wanted) -> dict[str, Any]:
        with _missing_tables():
            return events(self.engine, self.deployment, wanted)

    def _trouble(self) -> list[str]:
        """What daemons have said in the table of why they hold launches."""
        return [c.trouble for c in announced(self.engine, self.deployment) if c.kind == "daemon" and c.trouble]

    def _held(self, _queue: str) -> str | None:
        """Of several accounts and regions the table does not say which one's launches are held."""
        several = len(holders(self.engine, self.deployment)) > 1
        return None if several else next(iter(self._trouble()), None)


def state(engine: Engine, deployment: str) -> tuple[State | None, str | None]:
    """What the table says, or why it can not be asked."""
    try:
        return State(deployment, holders(engine, deployment), pulse(engine, deployment)), None
    except StoreUnavailable as error:
        return None, str(error)


def told(found: State, limit: int) -> dict[str, Any]:
    """The part `table` of the document `status`."""
    return {
        "leaders": [asdict(holder) for holder in found.holders],
        "quota": documents.quota(limit, found.pulse.by_phase),
        "oldest_pending_seconds": found.pulse.oldest_pending,
        "queues": found.pulse.queues,
        "holds": [
            {"queue": hold.queue, "mode": hold.mode.value, "held_by": hold.held_by, "since": hold.since.isoformat()}
            for hold in found.pulse.holds.all()
        ],
    }


def workloads(
    engine: Engine, deployment: str, wanted: Wanted, rules: Rules, held: Callable[[str], str | None]
) -> dict[str, Any]:
    """The document `workloads`. `held`: why launches of a queue are held. Raises StoreUnavailable."""
    found, now_open = listing(engine, deployment, wanted), pulse(engine, deployment)
    leading = any(holder.valid for holder in holders(engine, deployment))
    running = {queue: now_open.in_flight_of(queue) for queue in now_open.queues}

    @cache
    def around(queue: str) -> Circumstances:
        hold = now_open.holds.of(queue)
        free = rules.shares.room(queue, running, rules.limit)
        return Circumstances(headroom=free, held=str(hold) if hold else held(queue), leading=leading)

    lines = [documents.workload(w, found.now, around(w.queue), rules.airflow_url) for w in found.workloads]
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
    down, degraded = [], []
    if database:
        down.append(f"the database can not be reached: {database}")
    elif found is None or not found.led:
        down.append("no daemon leads: nothing is launched or observed")
    else:
        degraded += [f"no daemon leads {shard}: tasks there are not observed" for shard in found.alone]
    degraded += [f"launches are held behind one probe: {reason}" for reason in held]
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
