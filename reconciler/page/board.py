"""What this replica remembers of the last hour: a line of figures every half minute, and the last decisions.

In memory, bounded, and lost with the process: the table holds what must not be lost.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from reconciler.core.phase import Phase
from reconciler.core.why import duration, is_problem, why

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from reconciler.core.task import Workload
    from reconciler.seams import Counts

__all__ = ["Board", "Pass", "Slot"]

CONTROLLERS: Final = ("launch", "sweep", "adopt", "retry", "cleanup")
STEP: Final = 30
"""Seconds that one line of figures stands for."""
KEPT: Final = 120
"""An hour of them."""
EVENTS: Final = 500
DURATIONS: Final = 2000
"""Durations kept of each step, for its percentiles."""


@dataclass(slots=True)
class Slot:
    """Half a minute. Levels are those at its end; counts and durations are those of all of it."""

    at: int
    """Unix time of its beginning, a multiple of STEP."""
    running: int = 0
    starting: int = 0
    pending: int = 0
    launched: int = 0
    ended: int = 0
    failed: int = 0
    queued: list[float] = field(default_factory=list)
    """Seconds from the row's commit to RunTask's intent."""
    started: list[float] = field(default_factory=list)
    """Seconds from the intent to RUNNING."""


@dataclass(frozen=True, slots=True)
class Pass:
    """The last pass of a controller."""

    at: float
    """Unix time."""
    result: str
    seconds: float
    succeeded_at: float | None
    """Unix time of the last one without an error."""
    shard: str = ""


class Board:
    """Written by the daemon's loops, read by the threads of the HTTP port. `now` gives Unix time."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._slots: deque[Slot] = deque(maxlen=KEPT)
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS)
        self._passes: dict[str, dict[str, Pass]] = {}
        """By shard and controller."""
        self._led: dict[str, float] = {}
        """The shards that this replica leads, and since when, in Unix time."""
        self._held: dict[str, str] = {}
        self.breakers: dict[str, bool] = {}
        """The leader's: whether each is tripped."""

    # Hooks of store, manager and daemon.
    def moved(self, old: Workload, new: Workload) -> None:
        """A row was written: remember a change of phase."""
        if old.phase is not new.phase:
            with self._lock:
                _count(self._slot(), old, new)
                self._events.append(_event(old, new))

    def passed(self, controller: str, result: str, seconds: float, shard: str = "") -> None:
        now = self._now()
        with self._lock:
            passes = self._passes.setdefault(shard, {})
            before = passes.get(controller)
            earlier = before.succeeded_at if before else None
            good = now if result in ("success", "requeue") else earlier
            passes[controller] = Pass(now, result, seconds, good, shard)

    def leading(self, epoch: int | None, shard: str = "", *, among: bool = False) -> None:
        """This replica leads a shard with this epoch, or does not. `among`: there are others, and it is named."""
        with self._lock:
            others = {name: since for name, since in self._led.items() if name != shard}
            self._led = others if epoch is None else {**others, shard: self._now()}
        if not others:
            self.breakers = {}
        where = f" in {shard}" if among else ""
        self.happened(
            f"this replica stands by{where}" if epoch is None else f"this replica leads{where}, epoch {epoch}"
        )

    def counted(self, counts: Counts, held: Mapping[str, str], breakers: Mapping[str, bool]) -> None:
        """The levels of now. `held`: why launches are held, by cause."""
        self._tell(held, breakers)
        by = counts.by_phase
        with self._lock:
            slot = self._slot()
            slot.running = by.get(Phase.RUNNING, 0) + by.get(Phase.STOPPING, 0)
            slot.starting = by.get(Phase.LAUNCHING, 0) + by.get(Phase.STARTED, 0)
            slot.pending = by.get(Phase.PENDING, 0)

    def _tell(self, held: Mapping[str, str], breakers: Mapping[str, bool]) -> None:
        """Remember as events what has changed since the last look."""
        for cause in held.keys() - self._held.keys():
            self.happened(f"launches are held: {held[cause]} ({cause})", problem=True)
        for cause in self._held.keys() - held.keys():
            self.happened(f"launches are let through again ({cause})")
        for name, tripped in breakers.items():
            if tripped != self.breakers.get(name, False):
                said = "too much looks wrong at once, nothing is concluded" if tripped else "all looks well again"
                self.happened(f"{said} ({name})", problem=tripped)
        self._held, self.breakers = dict(held), dict(breakers)

    def happened(self, what: str, *, problem: bool = False) -> None:
        """Something that concerns no single workload: leadership, a held launch, a tripped breaker."""
        with self._lock:
            self._events.append({"at": self._now(), "what": what, "problem": problem})

    # For the page.
    def passes(self) -> Mapping[str, Pass]:
        """By controller. Of several shards that this replica leads, the one whose last good pass is the oldest."""
        with self._lock:
            found: dict[str, Pass] = {}
            for shard, passes in self._passes.items():
                for name, last in passes.items() if shard in self._led or not self._led else ():
                    if name not in found or (last.succeeded_at or 0.0) < (found[name].succeeded_at or 0.0):
                        found[name] = last
            return found

    def late(self, now: float, patience: float) -> list[str]:
        """A sentence for each controller without a good pass for so many seconds, where this replica leads."""
        with self._lock:
            return [
                f"{name} has had no good pass for {duration(timedelta(seconds=now - good))}"
                + (f" in {shard}" if len(self._led) > 1 else "")
                for shard, since in self._led.items()
                for name in CONTROLLERS
                if now - (good := self._good(shard, name, since)) > patience
            ]

    def _good(self, shard: str, controller: str, since: float) -> float:
        """When the last good pass was, or the time since which it is missing."""
        last = self._passes.get(shard, {}).get(controller)
        return max(since, (last.succeeded_at or 0.0) if last else 0.0)

    def events(self, limit: int) -> list[dict[str, Any]]:
        """The newest first."""
        with self._lock:
            newest = list(self._events)[-limit:]
        return newest[::-1]

    def history(self) -> dict[str, Any]:
        """Columns of equal length, the oldest first. None where nothing is known."""
        with self._lock:
            slots = list(self._slots)
            columns: dict[str, list[float | None]] = {
                name: [getattr(slot, name) for slot in slots]
                for name in ("running", "starting", "pending", "launched", "ended", "failed")
            }
            for name in ("queued", "started"):
                for label, share in (("p50", 0.5), ("p95", 0.95)):
                    columns[f"{name}_seconds_{label}"] = [_share(getattr(slot, name), share) for slot in slots]
        return {"step_seconds": STEP, "at": [slot.at for slot in slots], **columns}

    def _slot(self) -> Slot:
        """The present half minute. Those in which nothing was heard are filled with the levels of before."""
        at = int(self._now()) // STEP * STEP
        if not self._slots or self._slots[-1].at < at - STEP * KEPT:
            self._slots.append(Slot(at))
        while (last := self._slots[-1]).at < at:
            self._slots.append(Slot(last.at + STEP, running=last.running, starting=last.starting, pending=last.pending))
        return self._slots[-1]


def _count(slot: Slot, old: Workload, new: Workload) -> None:
    if new.phase is Phase.LAUNCHING:
        _keep(slot.queued, old.created_at, new.intent_at)
    elif new.phase is Phase.STARTED:
        slot.launched += 1
    elif new.phase is Phase.RUNNING:
        _keep(slot.started, new.intent_at, new.started_at or new.updated_at)
    elif new.terminal:
        slot.ended += 1
        slot.failed += is_problem(new)


def _keep(kept: list[float], since: datetime | None, until: datetime | None) -> None:
    if since and until and len(kept) < DURATIONS:
        kept.append(max(0.0, (until - since).total_seconds()))


def _share(values: Iterable[float], share: float) -> float | None:
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2) if ordered else None


def _said(old: Workload, new: Workload) -> str:
    """What has just happened. What is, is said by `why`."""
    if new.phase is Phase.LAUNCHING:
        return f"to be launched, {_since(old.created_at, new.intent_at)} after it was queued"
    if new.phase is Phase.STARTED:
        return "ECS accepted it"
    if new.phase is Phase.RUNNING:
        return f"runs, {_since(new.intent_at, new.started_at or new.updated_at)} after its intent"
    return why(new, new.updated_at) if new.updated_at else ""


def _since(begin: datetime | None, end: datetime | None) -> str:
    return duration(end - begin) if begin and end else "some time"


def _event(old: Workload, new: Workload) -> dict[str, Any]:
    at = new.updated_at
    return {
        "at": at.timestamp() if at else None,
        "exec_id": new.exec_id,
        "dag_id": new.key.dag_id,
        "task": str(new.key),
        "from": old.phase.value,
        "phase": new.phase.value,
        "attempt": new.attempt,
        "what": _said(old, new),
        "problem": is_problem(new),
    }
