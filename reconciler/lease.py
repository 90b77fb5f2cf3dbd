"""Who acts: a lease row in the database, one for each shard (an AWS account and region, because rate limits are).

The database alone says who holds it, and every write names the lease's epoch in its own transaction, so that a replica
that was paused for an hour can do no harm. Local time only shortens trust: from the moment before the lease was asked
for, less a margin. The lease guards quota and rate limits; safety does not rest on it.
"""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reconciler.seams import Clock, Lease, Store

__all__ = ["Elector"]


class Elector:
    """Holds one lease as long as it can. Used by several threads."""

    def __init__(self, store: Store, clock: Clock, *, name: str, holder: str, ttl: float) -> None:
        self._store, self._clock = store, clock
        self._name, self._holder = name, holder
        self._ttl = ttl
        self._lock = threading.Lock()
        self._lease: Lease | None = None
        self._trusted_until = 0.0
        self._answered_at = float("-inf")

    @property
    def reachable(self) -> bool:
        """Whether the database has answered within the lease's life."""
        return self._clock.monotonic() - self._answered_at < self._ttl

    @property
    def interval(self) -> float:
        """Seconds between two attempts: three of them fit into the lease's life."""
        return self._ttl / 3

    def lease(self) -> Lease | None:
        """The lease, if it is ours for certain."""
        with self._lock:
            return self._lease if self._clock.monotonic() < self._trusted_until else None

    def renew(self) -> Lease | None:
        """Take or keep the lease. Raises StoreUnavailable; trust then ends by itself."""
        asked_at = self._clock.monotonic()
        lease = self._store.hold(self._name, self._holder, timedelta(seconds=self._ttl))
        self._answered_at = self._clock.monotonic()
        with self._lock:
            self._lease = lease
            self._trusted_until = asked_at + self._ttl * 0.8 if lease else 0.0
        return lease

    def lost(self) -> None:
        """A write was refused for the epoch: somebody else holds the lease."""
        with self._lock:
            self._lease, self._trusted_until = None, 0.0

    def release(self) -> None:
        """Let another replica begin at once."""
        with self._lock:
            lease, self._lease, self._trusted_until = self._lease, None, 0.0
        if lease:
            self._store.release(lease)
