"""List what ECS runs under our name: give orphans back to their workload, stop the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from reconciler.controllers import Failures, Result
from reconciler.core import decide, identity
from reconciler.core.breaker import Breaker
from reconciler.core.phase import LIVE, Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from datetime import datetime

    from reconciler.core.profiles import Profiles
    from reconciler.core.task import EcsTask, Workload
    from reconciler.seams import Change, Clock, Ecs, Lease, Store

__all__ = ["Adopt"]

LIST_FOR: Final = 30.0
"""Seconds for which one pass lists: there are as many listings as task definitions, and ECS may be slow, or silent."""
STOP_FOR: Final = 60.0
"""Seconds for which one pass stops orphans."""
LONGEST_PAUSE, SHORTEST_PAUSE = 1.0, 0.05
"""Seconds between two passes."""


class Adopt:
    """From time to time lists each task definition's tasks in each cluster, whether or not we know them.

    It lists before it reads the table: a task that was launched in between must not look like one that nobody wants.
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
        listing_interval: float,
        orphan_grace: float,
        on_orphan: Callable[[str], None],
        on_twins: Callable[[EcsTask, EcsTask], None] = lambda _one, _other: None,
    ) -> None:
        self._store, self._ecs, self._clock = store, ecs, clock
        self._profiles, self._shard, self._policy = profiles, shard, policy
        self._deployment = deployment
        self._listing_interval, self._orphan_grace = listing_interval, orphan_grace
        self._on_orphan, self._on_twins = on_orphan, on_twins
        self._round_at = 0.0
        self._to_list: list[tuple[str, str]] | None = None
        """Cluster and family of what is still to be listed in this round, the last one first. None between rounds."""
        self._ours: dict[identity.Launched, EcsTask] = {}
        """What this round has found so far."""
        self._epoch = 0
        self.orphans: dict[str, float] = {}
        """ARNs of live tasks that no workload claims, and when they were first seen (monotonic seconds)."""
        self.breaker = Breaker()
        """While it is tripped nothing is stopped."""

    def reconcile(self, lease: Lease) -> Result:
        if lease.epoch != self._epoch:
            self._epoch = lease.epoch
            self._to_list = None
            self.orphans.clear()
        now = self._clock.monotonic()
        if self._to_list is None:
            if now < self._round_at:
                return Result(requeue_after=min(self._round_at - now, LONGEST_PAUSE))
            self._round_at = now + self._listing_interval
            self._to_list, self._ours = self._families(), {}
        failures = Failures()
        if self._to_list:
            changed = self._list(self._to_list, lease, failures)
        else:
            # In a pass of its own: each of the two may be slow.
            self._to_list = None
            changed = self._stop_orphans(failures)
        failures.throw()
        return Result(requeue_after=SHORTEST_PAUSE, changed=changed)

    def _families(self) -> list[tuple[str, str]]:
        """Where tasks of ours may be. Those where a launch waits to be settled come last, which is first in line."""
        waiting = self._store.in_phase(Phase.LAUNCHING, *LIVE).workloads
        found = {(profile.cluster, profile.family): False for profile in self._profiles.of_shard(self._shard)}
        for w in waiting:
            if w.cluster and w.family:
                found[w.cluster, w.family] = w.phase is Phase.LAUNCHING or found.get((w.cluster, w.family), False)
        return sorted(found, key=lambda where: (found[where], where))

    def _list(self, to_list: list[tuple[str, str]], lease: Lease, failures: Failures) -> int:
        """List as many as there is time for, and settle the launches that are found, or provably are not."""
        until = self._clock.monotonic() + LIST_FOR
        # Stopped ones are many, and matter only to a launch that is unsettled.
        unsettled = self._unsettled()
        blind = self._blind({cluster for cluster, _ in to_list}, until, failures) if unsettled else set()
        began = self._store.now()
        found: dict[identity.Launched, EcsTask] = {}
        conclusive: set[tuple[str | None, str | None]] = set()
        # None at all where the look has used up the time: then ECS is silent, and would be so here.
        while to_list and self._clock.monotonic() < until:
            cluster, family = to_list.pop()
            with failures.contained():
                for task in self._ecs.list_tasks(cluster, family, stopped=unsettled):
                    if launched := identity.parse_started_by(task.started_by, self._deployment):
                        # ECS promises one task for each client token.
                        if (twin := found.get(launched)) and not twin.stopped and not task.stopped:
                            self._on_twins(twin, task)
                        found[launched] = task
                if unsettled and cluster not in blind:
                    conclusive.add((cluster, family))
        self._ours |= found
        return self._resolve(found, conclusive, began, lease)

    def _unsettled(self) -> bool:
        """Whether a launch can not be settled by its token any more, so that the absence of its task may be proof."""
        waiting = self._store.in_phase(Phase.LAUNCHING)
        return any(not decide.may_resend(w, waiting.now, self._policy) for w in waiting.workloads)

    def _blind(self, clusters: set[str], until: float, failures: Failures) -> set[str]:
        """Those of the clusters where it proves nothing that ECS does not show a task.

        One that can not be asked for the tasks that we know; and all of them, while any of those are MISSING.
        """
        arns_of: dict[str, list[str]] = {}
        for w in self._store.in_phase(*LIVE).workloads:
            if w.task_arn:
                arns_of.setdefault(w.cluster or "", []).append(w.task_arn)
        blind = set(arns_of)
        for cluster, arns in sorted(arns_of.items()):
            if self._clock.monotonic() >= until:
                break
            with failures.contained():
                shown = self._ecs.describe(cluster, sorted(arns))
                if shown.no_cluster:
                    continue
                if shown.missing:
                    return clusters
                blind.remove(cluster)
        return blind

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

    def _stop_orphans(self, failures: Failures) -> int:
        """Stop live tasks of this deployment that no workload claims, after two listings and a grace period."""
        live = {launched: task for launched, task in self._ours.items() if not task.stopped}
        rows = {w.exec_id: w for w in self._store.find({exec_id for exec_id, _ in live}).workloads}
        unclaimed = {task.arn for (exec_id, n), task in live.items() if not _claims(rows.get(exec_id), n, task)}
        orphans = self._still_live(unclaimed, failures)
        now = self._clock.monotonic()
        known = self.orphans
        self.orphans = {arn: known.get(arn, now) for arn in orphans}
        if not self.breaker.look(len(orphans), len(live)):
            return 0
        stopped = 0
        for arn in sorted(orphans):
            if self._clock.monotonic() - now > STOP_FOR:
                break  # ECS is slow, or silent: the others are orphans in the next listing as well
            if arn in known and now - known[arn] >= self._orphan_grace:
                with failures.contained():
                    self._ecs.stop(self._cluster_of(arn), arn, "ecs-reconciler: no workload claims this task")
                    self._on_orphan("stopped")
                    stopped += 1
        return stopped

    def _still_live(self, unclaimed: Collection[str], failures: Failures) -> set[str]:
        """Those of the unclaimed tasks that live. Those that ECS does not show now stay what they were before.

        A round may take minutes: a task that it found running may have ended since, and its workload with it or gone on
        to its next launch.
        """
        until = self._clock.monotonic() + LIST_FOR
        live = {arn for arn in unclaimed if arn in self.orphans}
        arns_of: dict[str, list[str]] = {}
        for arn in sorted(unclaimed):
            arns_of.setdefault(self._cluster_of(arn), []).append(arn)
        for cluster, arns in sorted(arns_of.items()):
            if self._clock.monotonic() >= until:
                break
            with failures.contained():
                for task in self._ecs.describe(cluster, arns).tasks:
                    (live.discard if task.stopped else live.add)(task.arn)
        return live

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
