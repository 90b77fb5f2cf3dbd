"""Match what ECS shows of the tasks that we know to what was asked for, and record it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from reconciler.controllers import Failures, Result
from reconciler.core import decide
from reconciler.core.breaker import Breaker
from reconciler.core.errors import NoSuchCluster
from reconciler.core.freshness import Freshness
from reconciler.core.phase import LIVE, Desired, Phase
from reconciler.core.sweep import Staleness, polling, with_events
from reconciler.seams import Description

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from reconciler.core.task import Workload
    from reconciler.seams import Change, Clock, Ecs, Lease, Store

__all__ = ["Sweep"]

MISSES: Final = 3
"""A task is lost only if so many looks in a row did not find it."""
LONGEST_PAUSE, SHORTEST_PAUSE = 1.0, 0.05
"""Seconds between two passes."""


class Sweep:
    """Level-triggered: what DescribeTasks shows is the truth, whatever was heard before.

    Each pass looks at some of the tasks we know, the longest unseen first; few, while events tell what happens.
    """

    name = "sweep"

    def __init__(
        self,
        store: Store,
        ecs: Ecs,
        clock: Clock,
        *,
        policy: decide.Policy,
        sweep_interval: float,
        freshness: Freshness | None = None,
    ) -> None:
        """`freshness`: of the events, where there are any."""
        self._store, self._ecs, self._clock = store, ecs, clock
        self._policy, self._sweep_interval = policy, sweep_interval
        self._missed: dict[str, tuple[int, datetime, datetime]] = {}
        """How many looks in a row did not find a task, and when the first and the last of them were, by the database's
        clock."""
        self._shown_at: dict[str, datetime] = {}
        """When ECS last showed any task that is known, by account and region: what its ARN begins with."""
        self._freshness = freshness or Freshness()
        self._staleness = Staleness()
        self._look_at = 0.0
        self._calm = False
        """Events tell what happens, and ECS shows all that it should."""
        self._epoch = 0
        self.breaker = Breaker()
        """While it is tripped nothing is declared lost. MISSING counts only among the tasks that Airflow wants: of the
        others nothing wrong can be told, and they are many after a bad day, when most is cleared and runs again."""

    def reconcile(self, lease: Lease) -> Result:
        if lease.epoch != self._epoch:
            # What was seen while this replica led before are not looks in a row any more.
            self._epoch = lease.epoch
            self._missed.clear()
            self._shown_at.clear()
            self._staleness.clear()
        failures = Failures()
        changed = self._look(lease, failures)
        failures.throw()
        wait = self._look_at - self._clock.monotonic()
        # The next look may be seconds away, but that events do not come any more must be noticed sooner.
        return Result(
            requeue_after=max(SHORTEST_PAUSE, min(wait, LONGEST_PAUSE) if self._calm else wait), changed=changed
        )

    def _look(self, lease: Lease, failures: Failures) -> int:
        """Look at the tasks whose turn it is: those whose ARN is known."""
        now = self._clock.monotonic()
        doubtful = self._freshness.doubtful()
        # Only looks in a row count: whatever events tell, while a task is MISSING nothing is looked at less often.
        self._calm = self._freshness.judge(now) and not self._missed
        due = not self._calm or now >= self._look_at
        if not due and not doubtful:
            return 0
        snapshot = self._store.in_phase(*LIVE)
        by_arn = {w.task_arn: w for w in snapshot.workloads if w.task_arn}
        if self._calm:
            pace = with_events(len(by_arn))
        else:
            busy = any(w.phase is Phase.STARTED for w in by_arn.values())
            pace = polling(len(by_arn), self._sweep_interval, busy=busy, at_once=self.breaker.tripped)
        stalest = self._staleness.stalest(by_arn, pace.tasks, now)
        if due:
            self._look_at = now + pace.every
        return self._observe(snapshot.now, by_arn, {*(stalest if due else ()), *doubtful}, lease, failures)

    def _observe(
        self, now: datetime, by_arn: Mapping[str, Workload], chosen: set[str], lease: Lease, failures: Failures
    ) -> int:
        """Look at the chosen ones of the tasks whose ARN is known, and record what ECS shows. `now`: of the reading."""
        looked_at = self._clock.monotonic()
        arns_of: dict[str, list[str]] = {}
        for arn in sorted(by_arn.keys() & chosen):
            arns_of.setdefault(by_arn[arn].cluster or "", []).append(arn)
        changes: list[Change] = []
        lost: list[Change] = []
        nowhere: set[str] = set()
        for cluster, arns in sorted(arns_of.items()):
            self._staleness.looked(arns, looked_at)
            shown = Description()
            with failures.contained():
                shown = self._ecs.describe(cluster, arns)
            for task in shown.tasks:
                self._shown_at[_place(task.arn)] = now
                self._missed.pop(task.arn, None)
                w = by_arn[task.arn]
                if new := decide.observed(w, task, now):
                    changes.append((w, new))
                    if new.phase is not w.phase or task.stopped:
                        self._freshness.shown(task.arn, task.version, looked_at)
            for arn in sorted(shown.missing):
                misses, since = self._miss(arn, now)
                w = by_arn[arn]
                if shown.no_cluster and w.desired is Desired.RUN:
                    nowhere.add(arn)
                proven = misses >= MISSES and (arn not in nowhere or self._right_place(arn))
                if proven and (new := decide.missing(w, since, now, self._policy)):
                    # One that Airflow does not want any more can tell nothing wrong. Were the breaker to hold it too, a
                    # daemon that was away for longer than ECS remembers would find a full quota that never empties.
                    (lost if w.desired is Desired.RUN else changes).append((w, new))
        if alone := sorted({by_arn[arn].cluster or "" for arn in nowhere if not self._right_place(arn)}):
            # Where others are shown this would only make looks at them rarer.
            names = ", ".join(alone)
            failures.add(NoSuchCluster(f"no cluster {names}, and no other task is shown: is it the right region?"))
        self._missed = {arn: missed for arn, missed in self._missed.items() if arn in by_arn}
        wanted = sum(w.desired is Desired.RUN for w in by_arn.values())
        if self.breaker.look(self._suspicious(now, by_arn), wanted):
            changes += lost
        return len(self._store.save(changes, lease)) if changes else 0

    def _miss(self, arn: str, now: datetime) -> tuple[int, datetime]:
        """Count a look that did not find a task. Returns how many did not in a row, and since when."""
        misses, since, last = self._missed.get(arn, (0, now, now))
        if now - last > self._policy.missing_grace:
            misses, since = 0, now  # nobody has looked meanwhile
        self._missed[arn] = misses + 1, since, now
        return misses + 1, since

    def _right_place(self, arn: str) -> bool:
        """Whether ECS has shown a known task of the same account and region since it first did not show this one.

        With a wrong region or wrong credentials ECS knows none of our clusters, and their tasks run. The breaker does
        not hold for fewer than ten.
        """
        shown_at = self._shown_at.get(_place(arn))
        return shown_at is not None and shown_at >= self._missed[arn][1]

    def _suspicious(self, now: datetime, by_arn: Mapping[str, Workload]) -> int:
        """How many wanted tasks are MISSING, once one of them may be called lost.

        Not only those that are overdue, or were looked at several times: ECS may have begun to hide all just now, and
        a task that it would have shown next is the first one to be overdue. Nor only those of this pass: they are
        looked at in turns.
        """
        missed = [since for arn, (_, since, _) in self._missed.items() if by_arn[arn].desired is Desired.RUN]
        return len(missed) if any(now - since >= self._policy.missing_grace for since in missed) else 0


def _place(arn: str) -> str:
    """Account and region of a task: arn:aws:ecs:REGION:ACCOUNT."""
    return arn.rpartition(":")[0]
