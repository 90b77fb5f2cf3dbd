"""Match what ECS shows to what was asked for: record it, give orphans back to their workload, stop the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from reconciler.controllers import Failures, Result
from reconciler.core import decide, identity, sweep
from reconciler.core.freshness import Freshness
from reconciler.core.phase import LIVE, Desired, Phase
from reconciler.seams import Description

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from datetime import datetime

    from reconciler.core.profiles import Profiles
    from reconciler.core.task import EcsTask, Workload
    from reconciler.seams import Change, Clock, Ecs, Lease, Store

__all__ = ["Adopt"]

MISSES: Final = 3
"""A task is lost only if so many looks in a row did not find it."""
BREAKER_TASKS: Final = 10
BREAKER_SHARE: Final = 0.3
"""With at least so many tasks, and so large a part of them MISSING or orphaned, the fault is on our side: the wrong
region, the wrong cluster, a restored database. Nothing is declared lost and nothing stopped until it clears. MISSING
counts only among the tasks that Airflow wants: of the others nothing wrong can be told, and they are many after a bad
day, when most is cleared and runs again."""
STOP_FOR: Final = 60.0
"""Seconds for which one pass stops orphans."""
LONGEST_PAUSE, SHORTEST_PAUSE = 1.0, 0.05
"""Seconds between two passes."""
CLEAN_PASSES: Final = 2
"""So many unsuspicious passes close the breaker again."""


class Breaker:
    """Holds back what can not be undone while too much looks wrong at once."""

    def __init__(self) -> None:
        self._clean = CLEAN_PASSES

    @property
    def tripped(self) -> bool:
        return self._clean < CLEAN_PASSES

    def look(self, suspicious: int, of: int) -> bool:
        """Count one pass. Returns whether it is safe to act on what looked wrong."""
        if of >= BREAKER_TASKS and suspicious >= BREAKER_SHARE * of:
            self._clean = 0
        elif self.tripped:
            self._clean += 1
        return not self.tripped


class Adopt:
    """Level-triggered: what DescribeTasks and ListTasks show is the truth, whatever was heard before.

    Each pass looks at some of the tasks we know, the longest unseen first; few, while events tell what happens. From
    time to time it lists the cluster, before it reads the table: a task that was launched in between must not look like
    one that nobody wants.
    """

    name = "adopt"

    def __init__(
        self,
        store: Store,
        ecs: Ecs,
        clock: Clock,
        *,
        profiles: Profiles,
        shard: str = "",
        policy: decide.Policy,
        deployment: str,
        sweep_interval: float,
        listing_interval: float,
        orphan_grace: float,
        on_orphan: Callable[[str], None],
        on_twins: Callable[[EcsTask, EcsTask], None] = lambda _one, _other: None,
        freshness: Freshness | None = None,
    ) -> None:
        """`freshness`: of the events, where there are any."""
        self._store, self._ecs, self._clock = store, ecs, clock
        self._profiles, self._shard, self._policy = profiles, shard, policy
        self._deployment = deployment
        self._sweep_interval, self._listing_interval = sweep_interval, listing_interval
        self._orphan_grace = orphan_grace
        self._on_orphan, self._on_twins = on_orphan, on_twins
        self._missed: dict[str, tuple[int, datetime, datetime]] = {}
        """How many looks in a row did not find a task, and when the first and the last of them were, by the database's
        clock."""
        self._freshness = freshness or Freshness()
        self._staleness = sweep.Staleness()
        self._list_at = self._look_at = 0.0
        self._calm = False
        """Events tell what happens, and ECS shows all that it should."""
        self._epoch = 0
        self.orphans: dict[str, float] = {}
        """ARNs of live tasks that no workload claims, and when they were first seen (monotonic seconds)."""
        self.missing_breaker, self.orphan_breaker = Breaker(), Breaker()

    def breakers(self) -> dict[str, bool]:
        """Which breakers are tripped: too much looks wrong at once to act on it."""
        return {"missing": self.missing_breaker.tripped, "orphans": self.orphan_breaker.tripped}

    def reconcile(self, lease: Lease) -> Result:
        if lease.epoch != self._epoch:
            # What was seen while this replica led before are not looks in a row any more.
            self._epoch = lease.epoch
            self._missed.clear()
            self._staleness.clear()
            self.orphans.clear()
        failures = Failures()
        listing = self._clock.monotonic() >= self._list_at
        unsettled = listing and self._unsettled()
        changed = self._look(lease, failures, everything=unsettled)
        if listing:
            self._list_at = self._clock.monotonic() + self._listing_interval
            changed += self._list(lease, failures, stopped=unsettled)
        failures.throw()
        wait = self._look_at - self._clock.monotonic()
        # The next look may be seconds away, but that events do not come any more must be noticed sooner.
        return Result(
            requeue_after=max(SHORTEST_PAUSE, min(wait, LONGEST_PAUSE) if self._calm else wait), changed=changed
        )

    def _unsettled(self) -> bool:
        """Whether a launch can not be settled by its token any more, so that the absence of its task may be proof."""
        waiting = self._store.in_phase(Phase.LAUNCHING)
        return any(not decide.may_resend(w, waiting.now, self._policy) for w in waiting.workloads)

    def _look(self, lease: Lease, failures: Failures, *, everything: bool) -> int:
        """Look at the tasks whose turn it is, or at all of them: those whose ARN is known."""
        now = self._clock.monotonic()
        doubtful = self._freshness.doubtful()
        # Only looks in a row count: whatever events tell, while a task is MISSING nothing is looked at less often.
        self._calm = self._freshness.judge(now) and not self._missed
        due = everything or not self._calm or now >= self._look_at
        if not due and not doubtful:
            return 0
        snapshot = self._store.in_phase(*LIVE)
        by_arn = {w.task_arn: w for w in snapshot.workloads if w.task_arn}
        if self._calm:
            pace = sweep.with_events(len(by_arn))
        else:
            busy = any(w.phase is Phase.STARTED for w in by_arn.values())
            at_once = self.missing_breaker.tripped
            pace = sweep.polling(len(by_arn), self._sweep_interval, busy=busy, at_once=at_once)
        stalest = self._staleness.stalest(by_arn, pace.tasks, now)
        if due:
            self._look_at = now + pace.every
        chosen = by_arn if everything else {*(stalest if due else ()), *doubtful}
        return self._observe(snapshot.now, by_arn, chosen, lease, failures)

    def _observe(
        self, now: datetime, by_arn: Mapping[str, Workload], chosen: Collection[str], lease: Lease, failures: Failures
    ) -> int:
        """Look at the chosen ones of the tasks whose ARN is known, and record what ECS shows. `now`: of the reading."""
        looked_at = self._clock.monotonic()
        arns_of: dict[str, list[str]] = {}
        for arn in sorted(by_arn.keys() & set(chosen)):
            arns_of.setdefault(by_arn[arn].cluster or "", []).append(arn)
        changes: list[Change] = []
        lost: list[Change] = []
        for cluster, arns in sorted(arns_of.items()):
            self._staleness.looked(arns, looked_at)
            shown = Description()
            with failures.contained():
                shown = self._ecs.describe(cluster, arns)
            for task in shown.tasks:
                self._missed.pop(task.arn, None)
                w = by_arn[task.arn]
                if new := decide.observed(w, task, now):
                    changes.append((w, new))
                    if new.phase is not w.phase or task.stopped:
                        self._freshness.shown(task.arn, task.version, looked_at)
            for arn in sorted(shown.missing):
                misses, since, last = self._missed.get(arn, (0, now, now))
                if now - last > self._policy.missing_grace:
                    misses, since = 0, now  # nobody has looked meanwhile
                self._missed[arn] = misses + 1, since, now
                w = by_arn[arn]
                if misses + 1 >= MISSES and (new := decide.missing(w, since, now, self._policy)):
                    # One that Airflow does not want any more can tell nothing wrong. Were the breaker to hold it too, a
                    # daemon that was away for longer than ECS remembers would find a full quota that never empties.
                    (lost if w.desired is Desired.RUN else changes).append((w, new))
        self._missed = {arn: missed for arn, missed in self._missed.items() if arn in by_arn}
        wanted = sum(w.desired is Desired.RUN for w in by_arn.values())
        if self.missing_breaker.look(self._suspicious(now, by_arn), wanted):
            changes += lost
        return len(self._store.save(changes, lease)) if changes else 0

    def _suspicious(self, now: datetime, by_arn: Mapping[str, Workload]) -> int:
        """How many wanted tasks are MISSING, once one of them may be called lost.

        Not only those that are overdue, or were looked at several times: ECS may have begun to hide all just now, and
        a task that it would have shown next is the first one to be overdue. Nor only those of this pass: they are
        looked at in turns.
        """
        missed = [since for arn, (_, since, _) in self._missed.items() if by_arn[arn].desired is Desired.RUN]
        return len(missed) if any(now - since >= self._policy.missing_grace for since in missed) else 0

    def _list(self, lease: Lease, failures: Failures, *, stopped: bool) -> int:
        """Look for tasks that carry our name, whether or not we know them.

        `stopped` ones are many, and matter only to a launch that is unsettled.
        """
        waiting = self._store.in_phase(Phase.LAUNCHING, *LIVE)
        families = {(w.cluster, w.family) for w in waiting.workloads if w.cluster and w.family}
        families |= {(profile.cluster, profile.family) for profile in self._profiles.of_shard(self._shard)}
        began = self._store.now()
        ours: dict[identity.Launched, EcsTask] = {}
        conclusive: set[tuple[str | None, str | None]] = set()
        for cluster, family in sorted(families):
            with failures.contained():
                for task in self._ecs.list_tasks(cluster, family, stopped=stopped):
                    if launched := identity.parse_started_by(task.started_by, self._deployment):
                        # ECS promises one task for each client token.
                        if (twin := ours.get(launched)) and not twin.stopped and not task.stopped:
                            self._on_twins(twin, task)
                        ours[launched] = task
                # While ECS hides tasks that we know, that it hides another proves nothing. All were looked at just now.
                if stopped and not self._missed:
                    conclusive.add((cluster, family))
        return self._resolve(ours, conclusive, began, lease) + self._stop_orphans(ours, failures)

    def _resolve(
        self,
        ours: Mapping[identity.Launched, EcsTask],
        conclusive: Collection[tuple[str | None, str | None]],
        began: datetime,
        lease: Lease,
    ) -> int:
        """Settle launches whose answer was lost: found is conclusive, absence only in its time window."""
        snapshot = self._store.in_phase(Phase.LAUNCHING)
        changes: list[Change] = []
        for w in snapshot.workloads:
            if task := ours.get((w.exec_id, w.attempt)):
                self._on_orphan("adopted")
                changes.append((w, decide.adopted(w, task.arn, snapshot.now)))
            elif (w.cluster, w.family) in conclusive and (new := decide.absent(w, began, snapshot.now, self._policy)):
                changes.append((w, new))
        return len(self._store.save(changes, lease)) if changes else 0

    def _stop_orphans(self, ours: Mapping[identity.Launched, EcsTask], failures: Failures) -> int:
        """Stop live tasks of this deployment that no workload claims, after two listings and a grace period."""
        live = {launched: task for launched, task in ours.items() if not task.stopped}
        rows = {w.exec_id: w for w in self._store.find({exec_id for exec_id, _ in live}).workloads}
        now = self._clock.monotonic()
        orphans = {task.arn: task for (exec_id, n), task in live.items() if not _claims(rows.get(exec_id), n, task)}
        known = self.orphans
        self.orphans = {arn: known.get(arn, now) for arn in orphans}
        if not self.orphan_breaker.look(len(orphans), len(live)):
            return 0
        stopped = 0
        for arn in orphans:
            if self._clock.monotonic() - now > STOP_FOR:
                break  # ECS is slow, or silent: the others are orphans in the next listing as well
            if arn in known and now - known[arn] >= self._orphan_grace:
                with failures.contained():
                    self._ecs.stop(self._cluster_of(arn), arn, "ecs-reconciler: no workload claims this task")
                    self._on_orphan("stopped")
                    stopped += 1
        return stopped

    def _cluster_of(self, arn: str) -> str:
        """The cluster's name in a task's ARN: arn:aws:ecs:REGION:ACCOUNT:task/CLUSTER/ID."""
        parts = arn.rsplit(":", 1)[-1].split("/")
        here = self._profiles.of_shard(self._shard) or [self._profiles.default]
        return parts[1] if len(parts) == 3 else here[0].cluster


def _claims(w: Workload | None, attempt: int, task: EcsTask) -> bool:
    """Whether a workload knows this task as its own, or may still come to know it."""
    if w is None or w.terminal:
        return False
    if w.phase is Phase.PENDING:
        # A commit of the intent that a failover lost: the next launch has the same token and finds this task.
        return attempt == w.attempt + 1
    return attempt == w.attempt and w.task_arn in (None, task.arn)
