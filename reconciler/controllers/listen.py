"""Hear from ECS's events what a look would show later."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from reconciler.controllers import Result
from reconciler.core import decide, identity
from reconciler.core.errors import EventsUnavailable
from reconciler.core.phase import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from reconciler.core.freshness import Freshness
    from reconciler.core.task import EcsTask
    from reconciler.seams import Change, Clock, Event, Events, Lease, Store

__all__ = ["Listen"]

INTERVAL: Final = 0.05
"""Seconds between two receptions, so that what comes in the meantime shares a transaction. To wait for messages is the
queue's part."""
ROUNDS: Final = 3
"""How often an event is held against its row in one pass: a row may move on in between, and what is not known to be a
workload's task is first given to it."""


@dataclass(slots=True)
class _Heard:
    """All that one batch tells of one task. Only the newest counts, and it settles the others as well."""

    launched: identity.Launched
    newest: EcsTask
    events: list[Event] = field(default_factory=list)

    def add(self, event: Event, task: EcsTask) -> None:
        self.events.append(event)
        if task.version > self.newest.version:
            self.newest = task


class Listen:
    """Level-triggered all the same: an event is one more look at one task, and older news than the row has is no news.

    1. Receive what waits.
    2. Commit what is new in it, by compare-and-swap.
    3. Delete the messages. What could not be committed is not deleted, and comes again.
    """

    name = "listen"

    def __init__(
        self,
        store: Store,
        events: Events,
        clock: Clock,
        *,
        freshness: Freshness,
        deployment: str,
        shard: str = "",
        on_event: Callable[[str, float | None], None] = lambda *_: None,
    ) -> None:
        """`on_event` hears of each message: applied, stale, foreign or poison, and how old it was, in seconds."""
        self._store, self._events, self._clock = store, events, clock
        self._freshness = freshness
        self._deployment, self._shard = deployment, shard
        self._on_event = on_event
        self._epoch = 0

    def reconcile(self, lease: Lease) -> Result:
        if lease.epoch != self._epoch:
            self._epoch = lease.epoch
            self._freshness.forget(self._clock.monotonic())
        try:
            received = self._events.receive()
        except EventsUnavailable as error:
            self._freshness.failed(self._clock.monotonic(), str(error))
            raise
        self._freshness.answered(self._clock.monotonic())
        heard, settled = self._sorted(received)
        changed = 0
        if heard:
            done, changed = self._apply(heard, lease)
            settled += done
        if settled:
            self._events.delete(settled)
        return Result(requeue_after=INTERVAL, changed=changed)

    def _sorted(self, received: Sequence[Event]) -> tuple[list[_Heard], list[str]]:
        """What is told of our tasks, and the receipts of what tells us nothing."""
        heard: dict[str, _Heard] = {}
        nothing: list[str] = []
        for event in received:
            task = event.task
            launched = identity.parse_started_by(task.started_by, self._deployment) if task else None
            if task is None or launched is None:
                self._on_event("poison" if event.flaw else "foreign", None)
                nothing.append(event.receipt)
            else:
                heard.setdefault(task.arn, _Heard(launched, task)).add(event, task)
        return list(heard.values()), nothing

    def _apply(self, heard: Sequence[_Heard], lease: Lease) -> tuple[list[str], int]:
        """Commit what is new. Returns the receipts of what is settled by that, and how many rows were written."""
        left = {one.newest.arn: one for one in heard}
        applied: set[str] = set()
        settled: list[str] = []
        for _ in range(ROUNDS):
            snapshot = self._store.find({one.launched[0] for one in left.values()})
            rows = {w.exec_id: w for w in snapshot.workloads if w.shard == self._shard}
            changes: dict[str, Change] = {}
            for arn, one in list(left.items()):
                exec_id, attempt = one.launched
                w = rows.get(exec_id)
                new = decide.heard(w, one.newest, attempt, snapshot.now) if w else None
                if w is None or new is None:
                    settled += self._settle(left.pop(arn), snapshot.now, applied=False)
                elif one.newest.stopped and one.newest.container is None and w.phase is not Phase.LAUNCHING:
                    # Too little to end a workload by. A look is to find the rest, and this is not deleted before.
                    self._freshness.doubt(arn)
                    del left[arn]
                else:
                    changes[arn] = w, new
            if not changes:
                break
            written = {w.exec_id for w in self._store.save(list(changes.values()), lease)}
            for arn, (w, _) in changes.items():
                if w.exec_id not in written:
                    continue  # the row has moved on, and in the next round the event is held against it again
                applied.add(arn)
                if w.phase is not Phase.LAUNCHING:  # else the row has its task now, and what happened to it comes next
                    settled += self._settle(left.pop(arn), snapshot.now, applied=True)
        now = self._clock.monotonic()
        for one in heard:
            self._freshness.told(one.newest.arn, one.newest.version, now, news=one.newest.arn in applied)
        return settled, len(applied)

    def _settle(self, one: _Heard, now: datetime, *, applied: bool) -> list[str]:
        """Count what the messages of one task came to. Returns their receipts."""
        for event in one.events:
            lag = max(0.0, (now - event.at).total_seconds()) if event.at else None
            self._on_event("applied" if applied and event.task is one.newest else "stale", lag)
        return [event.receipt for event in one.events]
