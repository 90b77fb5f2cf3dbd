"""The `Store` seam on SQL: one method, one transaction, every write a compare-and-swap under the lease's fence.

Compare-and-swap alone is the safety: whoever writes names the version it read, in the WHERE of the write. The fence,
a look at the lease's epoch in the same transaction, keeps a leader that lost its lease from spending quota and rates.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from datetime import timedelta
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from reconciler.core import identity
from reconciler.core.errors import LeaseLost
from reconciler.core.holds import Holds
from reconciler.core.phase import IN_FLIGHT, Phase
from reconciler.core.task import Snapshot
from reconciler.seams import Counts, Lease, replica_lease
from reconciler.store import statements
from reconciler.store.engine import reading, translated, writing
from reconciler.store.holds import read_holds
from reconciler.store.rows import batches, read, read_now, snapshot, status_of, unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import Connection, Engine, Select

    from reconciler.core.task import Workload
    from reconciler.seams import Change

__all__ = ["SqlStore"]


FORGOTTEN_AFTER: Final = timedelta(days=1)
"""How long the note of a replica that is gone stays in the table of leases."""


class SqlStore:
    """The workloads of one deployment."""

    update = statements.UPDATE
    intend = statements.INTEND

    def __init__(
        self,
        engine: Engine,
        deployment: str,
        shard: str = "",
        *,
        on_written: Callable[[Workload, Workload], None] = lambda *_: None,
        on_unreadable: Callable[[str, str], None] | None = None,
        on_lost: Callable[[Workload, Workload], None] = lambda *_: None,
    ) -> None:
        """Looks at the rows of one `shard`, and at all that wait. `on_written` hears of each change that has been
        committed: the row as it was read, and as it is; `on_lost` of each that could not be made any more, because the
        row had moved on or the barrier held it.

        `on_unreadable` is told each row that can not be read, and why, at every read of it.
        """
        self._here = {"of": deployment, "shard": shard}
        self._on_written, self._on_lost = on_written, on_lost
        self._reader = reading(unreadable(engine, on_unreadable) if on_unreadable else engine)
        self._writer = writing(engine)
        self._deployment = deployment
        self._freed, self._freeing = 0, Lock()
        self._known: dict[str, Workload] = {}
        """Open workloads as they were last read, by the state that the table showed before."""
        self._knowing = Lock()

    def hold(self, name: str, holder: str, ttl: timedelta) -> Lease | None:
        with translated(), self._writer.begin() as conn:
            its = {"its_name": name, "its_holder": holder, "ttl": ttl.total_seconds()}
            epoch = conn.execute(statements.HOLD[conn.dialect.name], its).scalar()
        return None if epoch is None else Lease(name, holder, epoch)

    def release(self, lease: Lease) -> None:
        with translated(), self._writer.begin() as conn:
            its = {"its_name": lease.name, "its_holder": lease.holder, "its_epoch": lease.epoch}
            conn.execute(statements.RELEASE, its)

    def leases(self) -> Collection[str]:
        replicas = {"replicas": replica_lease(self._deployment, "")}
        with translated(), self._writer.begin() as conn:
            conn.execute(statements.FORGET_REPLICAS, {**replicas, "age": -FORGOTTEN_AFTER.total_seconds()})
            return set(conn.execute(statements.LEASES, {**replicas, "ours": f"{self._deployment}/"}).scalars())

    def now(self) -> datetime:
        with self._read() as conn:
            return read_now(conn)

    def counts(self) -> Counts:
        """Open workloads by phase, and of the terminal ones those that wait for their owner's acknowledgement.

        Not all terminal ones: to count them is to read the whole table, only to see how long rows are kept.
        """
        return self._count(statements.COUNT_OPEN, undelivered=statements.COUNT_UNDELIVERED)

    def counts_here(self) -> Counts:
        return self._count(statements.COUNT_PENDING, then=statements.COUNT_HERE)

    def freed(self) -> int:
        return self._freed

    def _count(
        self, opened: Select[Any], then: Select[Any] | None = None, undelivered: Select[Any] | None = None
    ) -> Counts:
        """`then` is counted too if the first finds anything."""
        by_queue: dict[str, Counter[Phase]] = {}
        by_profile: Counter[str] = Counter()
        by_shard: Counter[str] = Counter()
        cpu_by_profile: Counter[str] = Counter()
        cpu_by_shard: Counter[str] = Counter()
        with self._read() as conn:
            found = list(conn.execute(opened, self._here))
            if then is not None:
                if not found:  # many times in a second: the clock and the holds are of no interest
                    return Counts({}, 0.0, {}, {}, {}, Holds({}))
                found += conn.execute(then, self._here)
            at = oldest = read_now(conn)
            for phase, queue, profile, shard, count, first, cpu in found:
                by_queue.setdefault(queue, Counter())[Phase(phase)] += count
                if phase in IN_FLIGHT:
                    by_profile[profile] += count
                    by_shard[shard] += count
                    cpu_by_profile[profile] += cpu
                    cpu_by_shard[shard] += cpu
                oldest = min(oldest, first) if phase == Phase.PENDING else oldest
            for phase, queue, count in () if undelivered is None else conn.execute(undelivered, self._here):
                by_queue.setdefault(queue, Counter())[Phase(phase)] += count
            holds = read_holds(conn, self._deployment)
        by_phase = {phase: sum(counts[phase] for counts in by_queue.values()) for phase in Phase}
        waited = (at - oldest).total_seconds()
        return Counts(by_phase, waited, by_queue, by_profile, by_shard, holds, cpu_by_profile, cpu_by_shard)

    def launchable(self, limit: int, queues: Collection[str] | None = None) -> Snapshot:
        with self._read() as conn:
            if queues is None:
                return snapshot(conn, statements.LAUNCHABLE, of=self._deployment, limit=limit)
            wanted = sorted(queues)
            return snapshot(conn, statements.LAUNCHABLE_IN, of=self._deployment, limit=limit, queues=wanted)

    def in_phase(self, *phases: Phase) -> Snapshot:
        """What has not been written to since it was last read is not read again: most that lives only lives on.

        USE CAUTION: every write that matters here raises the version. A hand in the table should do so as well.
        """
        with self._read() as conn:
            at = read_now(conn)
            joined = conn.execute(statements.in_phase(*phases), self._here).scalar_one()
            states = joined.split(",") if joined else []
            known = self._known
            found = {state: known[state] for state in states if state in known}
            changed = {state.partition(" ")[0]: state for state in states if state not in found}
            fresh = [w for ids in batches(changed) for w in read(conn, statements.FIND, of=self._deployment, ids=ids)]
        # Some may have moved on between the two statements: they are not shown, or not kept.
        fresh = [w for w in fresh if w.phase in phases]
        with self._knowing:
            self._known = {state: w for state, w in self._known.items() if w.phase not in phases} | found
            self._known |= {
                changed[w.exec_id]: w
                for w in fresh
                if not w.terminal and changed[w.exec_id].split(" ")[1] == str(w.version)
            }
        return Snapshot(at, tuple(sorted((*found.values(), *fresh), key=_age)))

    def launching(self, lease: Lease) -> Snapshot:
        with self._read() as conn:
            return snapshot(conn, statements.LAUNCHING, **self._here, lease=lease.name, epoch=lease.epoch)

    def unwanted(self) -> Snapshot:
        with self._read() as conn:
            return snapshot(conn, statements.UNWANTED, **self._here)

    def failed_starts(self) -> Snapshot:
        with self._read() as conn:
            at = read_now(conn)
            stopped = read(conn, statements.NEVER_RAN, **self._here)
            refused = read(conn, statements.REFUSED, **self._here)
        return Snapshot(at, (*stopped, *refused))

    def admitted(self, since: datetime, running_for: timedelta) -> bool:
        parameters = {**self._here, "since": since, "age": -running_for.total_seconds()}
        with self._read() as conn:
            return bool(conn.execute(statements.ADMITTED, parameters).scalar())

    def find(self, exec_ids: Collection[str]) -> Snapshot:
        """The workloads with these ids, without their spec."""
        with self._read() as conn:
            at = read_now(conn)
            mine = self._deployment
            found = [w for ids in batches(exec_ids) for w in read(conn, statements.FIND, of=mine, ids=ids)]
        return Snapshot(at, tuple(found))

    def save(self, changes: Sequence[Change], lease: Lease) -> list[Workload]:
        if not changes:
            return []
        with self._write(lease) as conn:
            won = self._swap(conn, changes)
            self._note_attempts(conn, won, lease)
        with self._freeing:
            self._freed += sum(old.in_flight and not new.in_flight for old, new in won)
        for old, new in won:
            self._on_written(old, new)
        written = {old.exec_id for old, _ in won}
        for old, new in changes:
            if old.exec_id not in written:
                self._on_lost(old, new)
        return [new for _, new in won]

    def prune(self, older_than: timedelta, limit: int, lease: Lease) -> int:
        """Delete what was last written `older_than` ago: a workload's last write is after its end."""
        with self._write(lease) as conn:
            parameters = {"of": self._deployment, "age": -older_than.total_seconds(), "limit": limit}
            old = conn.execute(statements.PRUNABLE, parameters).scalars().all()
            for ids in batches(old):
                conn.execute(statements.FORGET_ATTEMPTS, {"ids": ids})
                conn.execute(statements.FORGET, {"of": self._deployment, "ids": ids})
        return len(old)

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        """A transaction that reads, if one is needed. Committed: psycopg forgets all it has prepared at a rollback."""
        with translated(), self._reader.begin() as conn:
            yield conn

    @contextmanager
    def _write(self, lease: Lease) -> Iterator[Connection]:
        """A transaction behind the fence. The lease may have run out, as long as nobody else has taken it."""
        with translated(), self._writer.begin() as conn:
            epoch = conn.execute(statements.FENCE, {"name": lease.name, "epoch": lease.epoch}).scalar()
            if epoch is None:
                raise LeaseLost(f"epoch {lease.epoch} of the lease {lease.name} is over: another replica has taken it")
            yield conn

    def _swap(self, conn: Connection, changes: Sequence[Change]) -> list[Change]:
        """Write each change that still can be made, and say which these were."""
        wanted: dict[str, Change] = {}
        for change in changes:
            wanted.setdefault(change[0].exec_id, change)
        versions = self._lock(conn, wanted)
        mine = {"of": self._deployment}
        current = [(old, new) for old, new in wanted.values() if versions.get(old.exec_id) == old.version]
        won = [change for change in current if not _is_intent(*change)]
        if won:
            conn.execute(self.update, [_parameters(*change) | mine for change in won])
        intents = [change for change in current if _is_intent(*change)]
        if intents:
            conn.execute(self.intend, [_parameters(*change) | mine for change in intents])
            # The barrier may have held some back, and what an executemany did is not told row by row.
            versions = self._versions(conn, [old.exec_id for old, _ in intents])
            won += [(old, new) for old, new in intents if versions[old.exec_id] == new.version]
        return won

    def _lock(self, conn: Connection, wanted: Mapping[str, Change]) -> dict[str, int]:
        """Lock these rows, in the order of their ids, and return their versions.

        An intent locks all open rows of its task instance: two of them could otherwise be intended at the same moment
        by two transactions that do not see each other's write.
        """
        names = [old.ti_id for old, new in wanted.values() if old.ti_id and _is_intent(old, new)]
        ids = set(wanted)
        for some in batches(names):
            ids.update(conn.execute(statements.PEERS, {"of": self._deployment, "ids": some}).scalars())
        return self._versions(conn, ids, statements.LOCK)

    def _versions(
        self, conn: Connection, exec_ids: Collection[str], statement: Select[tuple[str, int]] = statements.VERSIONS
    ) -> dict[str, int]:
        versions: dict[str, int] = {}
        for ids in batches(exec_ids):
            found = conn.execute(statement, {"of": self._deployment, "ids": ids})
            versions.update((row.exec_id, row.version) for row in found)
        return versions

    def _note_attempts(self, conn: Connection, won: Sequence[Change], lease: Lease) -> None:
        """Open an attempt for each intent; note the ARN and the end of the others."""
        opened = [_attempt(new, lease) for old, new in won if _is_intent(old, new)]
        if opened:
            conn.execute(statements.OPEN_ATTEMPT[conn.dialect.name], opened)
        noted = [
            {
                "id": old.exec_id,
                "number": old.attempt,
                "arn": new.task_arn,
                "at": None if new.in_flight else new.updated_at,
                "why": None if new.in_flight else ": ".join(filter(None, [new.phase.value, new.reason])),
            }
            for old, new in won
            if old.in_flight and (not new.in_flight or new.task_arn != old.task_arn)
        ]
        if noted:
            conn.execute(statements.NOTE_ATTEMPT, noted)


def _age(w: Workload) -> tuple[Any, str]:
    """The oldest first."""
    return (w.created_at, w.exec_id)


def _is_intent(old: Workload, new: Workload) -> bool:
    return old.phase is Phase.PENDING and new.phase is Phase.LAUNCHING


def _parameters(old: Workload, new: Workload) -> dict[str, Any]:
    return {"id": old.exec_id, "read_version": old.version, **status_of(new)}


def _attempt(w: Workload, lease: Lease) -> dict[str, Any]:
    return {
        "exec_id": w.exec_id,
        "attempt": w.attempt,
        "cluster": w.cluster,
        "family": w.family,
        "client_token": identity.client_token(w.cluster or "", w.exec_id, w.attempt),
        "started_by": identity.started_by(w.deployment, w.exec_id, w.attempt),
        "intent_at": w.intent_at,
        "epoch": lease.epoch,
    }
