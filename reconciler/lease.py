"""Who acts: a lease row in the database, one for each shard (an AWS account and region, because rate limits are).

The database alone says who holds it, and every write names the lease's epoch in its own transaction, so that a replica
that was paused for an hour can do no harm. Local time only shortens trust: from the moment before the lease was asked
for, less a margin. The lease guards quota and rate limits; safety does not rest on it.
"""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING

from reconciler.seams import replica_lease

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from reconciler.seams import Clock, Lease, Store

__all__ = ["Crowd", "Elector"]


class Crowd:
    """How the replicas of a deployment share its shards: each takes as many as are its part, and gives way beyond.

    Each replica holds a lease in its own name, so that the others can count it. The part is the number of shards over
    the number of replicas, rounded up; so while a shard is free, some replica has less than its part and takes it. One
    that nobody takes for a lease's life, perhaps because the others are configured without it, anybody may take.

    It decides who works, and not who may: the leases do that. Used by several threads.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        deployment: str,
        holder: str,
        ttl: float,
        shards: Callable[[], Collection[str]],
    ) -> None:
        """`shards`: the names of the leases that this replica could hold."""
        self._store, self._clock = store, clock
        self._deployment, self._holder, self._ttl = deployment, holder, ttl
        self._shards = shards
        self._lock = threading.Lock()
        self._mine: set[str] = set()
        self._kept: set[str] = set()
        """Those that nobody else took, and so need not be offered again."""
        self._answered_at = float("-inf")
        self._part = 1
        self._free_since: dict[str, float] = {}

    @property
    def interval(self) -> float:
        """Seconds between two looks."""
        return self._ttl / 3

    @property
    def reachable(self) -> bool:
        """Whether the database has answered within a lease's life."""
        return self._clock.monotonic() - self._answered_at < self._ttl

    def look(self) -> None:
        """Tell the others that this replica lives, and count them. Raises StoreUnavailable; the last count stays."""
        self._store.hold(replica_lease(self._deployment, self._holder), self._holder, timedelta(seconds=self._ttl))
        held, now = self._store.leases(), self._clock.monotonic()
        replicas = sum(name.startswith(replica_lease(self._deployment, "")) for name in held)
        shards = self._shards()
        with self._lock:
            self._answered_at = now
            self._part = -(-len(shards) // max(1, replicas))
            self._free_since = {name: self._free_since.get(name, now) for name in shards if name not in held}

    def wants(self, name: str) -> bool:
        """Whether this replica should try to take a lease. If so it counts as its own until `without` is called."""
        with self._lock:
            unwanted_for = self._clock.monotonic() - self._free_since.get(name, float("inf"))
            if name not in self._mine and len(self._mine) >= self._part:
                if unwanted_for <= self._ttl:
                    return False
                self._kept.add(name)
            self._mine.add(name)
            return True

    def gives_way(self, name: str) -> bool:
        """Whether this replica holds more than its part, and this lease is the one to leave to others."""
        with self._lock:
            if len(self._mine) <= self._part or name in self._kept:
                return False
            self._mine.discard(name)
            return True

    def without(self, name: str) -> None:
        """This replica does not hold the lease."""
        with self._lock:
            self._mine.discard(name)
            self._kept.discard(name)

    def leave(self) -> None:
        """Tell the others that this replica is gone. Raises StoreUnavailable."""
        name = replica_lease(self._deployment, self._holder)
        if lease := self._store.hold(name, self._holder, timedelta(seconds=self._ttl)):
            self._store.release(lease)


class Elector:
    """Holds one lease as long as it can, or as its replica's part of the work. Used by several threads."""

    def __init__(
        self, store: Store, clock: Clock, *, name: str, holder: str, ttl: float, crowd: Crowd | None = None
    ) -> None:
        """`crowd`: None where there is one shard only, which every replica tries to hold."""
        self._crowd = crowd
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
        """Take or keep the lease, or leave it to others. Raises StoreUnavailable; trust then ends by itself."""
        if self._crowd and not self._crowd.wants(self._name):
            # The count of replicas has just been read from the same database, or cannot be.
            return None
        asked_at = self._clock.monotonic()
        lease = self._store.hold(self._name, self._holder, timedelta(seconds=self._ttl))
        self._answered_at = self._clock.monotonic()
        if self._crowd and lease is None:
            self._crowd.without(self._name)
        elif self._crowd and lease and self._crowd.gives_way(self._name):
            with self._lock:
                self._lease, self._trusted_until = None, 0.0
            self._store.release(lease)
            return None
        with self._lock:
            self._lease = lease
            self._trusted_until = asked_at + self._ttl * 0.8 if lease else 0.0
        return lease

    def lost(self) -> None:
        """A write was refused for the epoch: somebody else holds the lease."""
        with self._lock:
            self._lease, self._trusted_until = None, 0.0
        if self._crowd:
            self._crowd.without(self._name)

    def release(self) -> None:
        """Let another replica begin at once."""
        with self._lock:
            lease, self._lease, self._trusted_until = self._lease, None, 0.0
        if lease:
            self._store.release(lease)
