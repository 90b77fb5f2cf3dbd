"""Match what ECS shows to what was asked for: record it, give orphans back to their workload, stop the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from reconciler.controllers import Failures, Result
from reconciler.core import decide, identity
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

    Each pass looks at the tasks we know. From time to time it lists the cluster, before it reads the table: a task that
    was launched in between must not look like one that nobody wants.
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
    ) -> None:
        self._store, self._ecs, self._clock = store, ecs, clock
        self._profiles, self._shard, self._policy = profiles, shard, policy
        self._deployment = deployment
        self._sweep_interval, self._listing_interval = sweep_interval, listing_interval
        self._orphan_grace = orphan_grace
        self._on_orphan, self._on_twins = on_orphan, on_twins
        self._missed: dict[str, tuple[int, datetime]] = {}
        """How many looks in a row did not find a task, and when the first of them was, by the database's clock."""
        self._list_at = 0.0
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
            self.orphans.clear()
        failures = Failures()
        changed = self._observe(lease, failures)
        if self._clock.monotonic() >= self._list_at:
            self._list_at = self._clock.monotonic() + self._listing_interval
            changed += self._list(lease, failures)
        failures.throw()
        return Result(requeue_after=self._sweep_interval, changed=changed)

    def _observe(self, lease: Lease, failures: Failures) -> int:
        """Look at every task whose ARN is known."""
        snapshot = self._store.in_phase(*LIVE)
        by_arn = {w.task_arn: w for w in snapshot.workloads if w.task_arn}
        changes: list[Change] = []
        lost: list[Change] = []
        overdue, missing = False, 0
        for cluster in sorted({w.cluster or "" for w in by_arn.values()}):
            arns = [arn for arn, w in by_arn.items() if w.cluster == cluster]
            shown = Description((), frozenset())
            with failures.contained():
                shown = self._ecs.describe(cluster, arns)
            for task in shown.tasks:
                self._missed.pop(task.arn, None)
                w = by_arn[task.arn]
                if new := decide.observed(w, task, snapshot.now):
                    changes.append((w, new))
            for arn in sorted(shown.missing):
                misses, since = self._missed.get(arn, (0, snapshot.now))
                self._missed[arn] = misses + 1, since
                w = by_arn[arn]
                # One that Airflow does not want any more can tell nothing wrong. Were the breaker to hold it too, a
                # daemon that was away for longer than ECS remembers would find a full quota that never empties.
                held = w.desired is Desired.RUN
                missing += held and misses + 1 >= MISSES
                if new := decide.missing(w, since, snapshot.now, self._policy):
                    overdue = overdue or held
                    if misses + 1 >= MISSES:
                        (lost if held else changes).append((w, new))
        self._missed = {arn: missed for arn, missed in self._missed.items() if arn in by_arn}
        wanted = sum(w.desired is Desired.RUN for w in by_arn.values())
        # Not only those that are overdue: while ECS hides all, each launch is MISSING for a while longer than the next.
        if self.missing_breaker.look(missing if overdue else 0, wanted):
            changes += lost
        return len(self._store.save(changes, lease)) if changes else 0

    def _list(self, lease: Lease, failures: Failures) -> int:
        """Look for tasks that carry our name, whether or not we know them."""
        waiting = self._store.in_phase(Phase.LAUNCHING, *LIVE)
        families = {(w.cluster, w.family) for w in waiting.workloads if w.cluster and w.family}
        families |= {(profile.cluster, profile.family) for profile in self._profiles.of_shard(self._shard)}
        # Stopped ones are many, and matter only to a launch that can not be settled by its token any more.
        stopped = any(
            w.phase is Phase.LAUNCHING and not decide.may_resend(w, waiting.now, self._policy)
            for w in waiting.workloads
        )
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
                # While ECS hides tasks that we know, that it hides another proves nothing.
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
