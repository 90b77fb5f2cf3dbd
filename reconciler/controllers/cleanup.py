"""End what is not wanted any more, and forget what nobody needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from reconciler.controllers import Failures, Result
from reconciler.core import decide
from reconciler.core.phase import Phase

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from reconciler.core.profiles import Profiles
    from reconciler.core.task import EcsTask, Workload
    from reconciler.seams import Change, Clock, Ecs, Lease, Store

__all__ = ["Cleanup"]

INTERVAL: Final = 1.0
STOP_AGAIN: Final = 30.0
"""Seconds after which StopTask is repeated for a task that has not stopped. It is idempotent."""
STOP_FOR: Final = 60.0
"""Seconds for which one pass calls StopTask, so that a silent ECS can not hold up the rest for hours."""
PRUNE_INTERVAL: Final = 60.0
PRUNE_BATCH: Final = 1000


class Cleanup:
    """STOPPING is committed before StopTask is called, and the call is repeated until ECS says STOPPED."""

    name = "cleanup"

    def __init__(
        self,
        store: Store,
        ecs: Ecs,
        clock: Clock,
        *,
        profiles: Profiles,
        policy: decide.Policy,
        retention: timedelta,
    ) -> None:
        self._store, self._ecs, self._clock = store, ecs, clock
        self._profiles, self._policy, self._retention = profiles, policy, retention
        self._stopped_at: dict[str, float] = {}
        self._prune_at = 0.0

    def reconcile(self, lease: Lease) -> Result:
        failures = Failures()
        changed = self._end(lease) + self._stop(failures) + self._starts(lease, failures)
        if self._clock.monotonic() >= self._prune_at:
            deleted = self._store.prune(self._retention, PRUNE_BATCH, lease)
            # A full batch means that there is more.
            self._prune_at = self._clock.monotonic() + (INTERVAL if deleted == PRUNE_BATCH else PRUNE_INTERVAL)
            changed += deleted
        failures.throw()
        return Result(requeue_after=INTERVAL, changed=changed)

    def _end(self, lease: Lease) -> int:
        """Cancel what waits, and mark what must be stopped."""
        snapshot = self._store.unwanted()
        changes: list[Change] = []
        for w in snapshot.workloads:
            new = decide.cancelled(w, snapshot.now)
            if w.phase is Phase.RUNNING and (reason := decide.unwanted(w, snapshot.now, self._policy, may_run=True)):
                new = decide.stopping(w, snapshot.now, reason)
            if new:
                changes.append((w, new))
        return len(self._store.save(changes, lease)) if changes else 0

    def _starts(self, lease: Lease, failures: Failures) -> int:
        """Mark starts that are not wanted, or take too long.

        Each is looked at first. It may run by now, unseen by a slow sweep or while no daemon ran: then it is left to
        end itself, or was not too late.
        """
        snapshot = self._store.in_phase(Phase.STARTED)
        suspects = [w for w in snapshot.workloads if self._why(w, snapshot.now, may_run=False)]
        changes: list[Change] = []
        for cluster in sorted({w.cluster or "" for w in suspects}):
            by_arn = {w.task_arn or "": w for w in suspects if w.cluster == cluster}
            with failures.contained():
                shown = {task.arn: task for task in self._ecs.describe(cluster, sorted(by_arn)).tasks}
                changes += [
                    (w, new) for arn, w in by_arn.items() if (new := self._ended(w, shown.get(arn), snapshot.now))
                ]
        return len(self._store.save(changes, lease)) if changes else 0

    def _ended(self, w: Workload, task: EcsTask | None, now: datetime) -> Workload | None:
        """What a suspect becomes, as ECS shows it now. None: it may go on, or the sweep will say that it stopped."""
        if task is None:
            # Late cannot be said of what ECS does not show: it may run for long. The sweep calls it lost in time, but
            # not while ECS hides so many that its breaker holds.
            reason = decide.unwanted(w, now, self._policy, may_run=True)
        elif task.stopped:
            return None
        else:
            seen = decide.observed(w, task, now) or w
            reason = self._why(seen, now, may_run=seen.phase is Phase.RUNNING)
        return decide.stopping(w, now, reason) if reason else None

    def _why(self, w: Workload, now: datetime, *, may_run: bool) -> str | None:
        """Why a start must be stopped."""
        late = decide.late(w, now, self._profiles.start_timeout(w))
        return decide.unwanted(w, now, self._policy, may_run=may_run) or late

    def _stop(self, failures: Failures) -> int:
        """Call StopTask for what is to be stopped, again from time to time."""
        now = self._clock.monotonic()
        stopping = self._store.in_phase(Phase.STOPPING).workloads
        self._stopped_at = {w.exec_id: self._stopped_at[w.exec_id] for w in stopping if w.exec_id in self._stopped_at}
        due = [w for w in stopping if now - self._stopped_at.get(w.exec_id, -STOP_AGAIN) >= STOP_AGAIN]
        for number, w in enumerate(due):
            if number and self._clock.monotonic() - now > STOP_FOR:
                return number  # ECS is slow, or silent: the others are due in the next pass
            self._stopped_at[w.exec_id] = now
            with failures.contained():
                self._ecs.stop(
                    w.cluster or "", w.task_arn or "", f"ecs-reconciler: {w.reason or 'not wanted any more'}"
                )
        return len(due)
