"""Give a start another try, but only with proof that no user code ran."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from reconciler.controllers import Result
from reconciler.core import decide
from reconciler.core.phase import Phase

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from reconciler.core.gate import Gate
    from reconciler.core.identity import Launched
    from reconciler.core.task import Snapshot, Workload
    from reconciler.seams import Change, Clock, Lease, Store

__all__ = ["Retry"]

INTERVAL: Final = 1.0
STORM: Final = 5
STORM_SECONDS: Final = 60.0
"""So many refused starts in so short a time are not the workloads' fault: Airflow's API server is down."""
ADMITTED_AFTER: Final = timedelta(seconds=300)
"""A container that runs this long was admitted: without the API server it gives up sooner, after five attempts."""
REMEMBERED: Final = timedelta(days=1)
"""How far back an admission shows that containers can reach the API server at all."""


class Retry:
    """Two proofs are accepted.

    ECS stopped the task before its container existed; or the container exited while the task instance was still QUEUED
    under this very queueing, as the shim has found. Everything else that failed is Airflow's to retry.
    """

    name = "retry"

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        policy: decide.Policy,
        api_gate: Gate,
        on_retry: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._store, self._clock = store, clock
        self._policy, self._gate = policy, api_gate
        self._on_retry = on_retry
        self._refusals: dict[Launched, float] = {}
        """When each launch was first seen refused. Seen again, because it could not be written, it is the same one."""
        self._closed_at: datetime | None = None
        """When the gate was closed, by the database's clock."""

    def reconcile(self, lease: Lease) -> Result:
        snapshot = self._store.failed_starts()
        self._weigh(snapshot)
        changes: list[Change] = []
        for w in snapshot.workloads:
            if w.phase is Phase.EXITED:
                new = decide.refused(w, snapshot.now, counts=not w.interrupted and self._own_fault(w, snapshot.now))
            else:
                new = decide.start_failed(w, snapshot.now, self._policy)
            if new:
                changes.append((w, new))
        written = self._store.save(changes, lease) if changes else []
        for w in written:
            self._on_retry("given_up" if w.terminal else "again")
        return Result(requeue_after=INTERVAL, changed=len(written))

    def _weigh(self, snapshot: Snapshot) -> None:
        """Hold launches behind one probe while many starts are refused, until one is admitted again."""
        now = self._clock.monotonic()
        if self._closed_at and self._store.admitted(self._closed_at, ADMITTED_AFTER):
            self._closed_at = None
            self._refusals.clear()
            self._gate.open()
        self._refusals = {launched: at for launched, at in self._refusals.items() if now - at <= STORM_SECONDS}
        seen = {(w.exec_id, w.attempt) for w in snapshot.workloads if w.phase is Phase.EXITED and not w.interrupted}
        fresh = seen - self._refusals.keys()
        self._refusals |= dict.fromkeys(fresh, now)
        if fresh and (self._closed_at or len(self._refusals) >= STORM):
            self._closed_at = self._closed_at or snapshot.now
            self._gate.close(now, "containers exit before Airflow's API server admits them: is it reachable from ECS?")

    def _own_fault(self, w: Workload, now: datetime) -> bool:
        """Whether a refused start is to be counted: only if Airflow admitted others meanwhile.

        If it used to and did not, its API server may be down, however few are refused. Where nothing was ever admitted
        the fault is in how it is set up, and the user had better hear of it.
        """
        if self._closed_at or w.intent_at is None:
            return False
        admitted = self._store.admitted
        return admitted(w.intent_at, ADMITTED_AFTER) or not admitted(now - REMEMBERED, ADMITTED_AFTER)
