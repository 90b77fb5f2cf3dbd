"""Workloads on their way into the table: written in the transaction in which Airflow queues them.

Airflow hands over one workload at a time, in a critical section that holds locks and forbids to commit. So they wait in
a buffer of the session until that commits, and are written then as one statement inside a savepoint: if it fails, it
takes nothing of the scheduler's with it. What could not be written there is written with the next heartbeat.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from sqlalchemy import event

from reconciler.airflow.workloads import rejected
from reconciler.core.errors import StoreUnavailable
from reconciler.store import shim
from reconciler.store.engine import translated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from sqlalchemy import Connection
    from sqlalchemy.orm import Session, SessionTransaction

    from reconciler.airflow.trouble import Trouble
    from reconciler.core.task import Workload

    Begin = Callable[[], AbstractContextManager[Connection]]
    Identify = Callable[[Connection, Sequence[Workload]], list[Workload]]

__all__ = ["Enqueue", "savepoint"]


@contextmanager
def savepoint(session: Session) -> Iterator[Connection]:
    """The session's connection, inside its transaction. An error in the block undoes the block and nothing else.

    Not `session.begin_nested()`: ending that counts as a commit, which Airflow's critical section forbids.
    """
    connection = session.connection()
    if connection.dialect.name == "sqlite" and not _in_transaction(connection):
        # The driver begins before the first INSERT or UPDATE only. A savepoint outside of a transaction is one itself,
        # and would commit at its end. And whoever has read is refused as a writer, at once, if another has written
        # since: not only we, but Airflow's next statement in this transaction as well, of which the scheduler dies.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    with connection.begin_nested(), shim.impatient(connection):
        yield connection


def _in_transaction(connection: Connection) -> bool:
    return bool(getattr(connection.connection.dbapi_connection, "in_transaction", False))


class Enqueue:
    """`late` is what Airflow has committed as QUEUED and the table does not have yet, by task instance."""

    def __init__(self, identify: Identify, committed: Callable[[Workload], None], trouble: Trouble) -> None:
        self._identify = identify
        self._committed = committed
        self._trouble = trouble
        self._buffers: WeakKeyDictionary[Session, _Buffer] = WeakKeyDictionary()
        self.late: dict[str | None, Workload] = {}

    def add(self, session: Session, workload: Workload) -> None:
        """Write the workload when the session commits, or forget it when the session rolls back."""
        buffer = self._buffers.get(session)
        if buffer is None:
            buffer = self._buffers[session] = _Buffer(self)
            # For the session's life: Airflow uses one again and again, and a listener can not remove itself.
            event.listen(session, "before_commit", buffer.write)
            event.listen(session, "after_commit", buffer.announce)
            event.listen(session, "after_transaction_end", buffer.forget)
        buffer.workloads.append(workload)

    def write_late(self, begin: Begin) -> None:
        """Write what could not be written in its own transaction. Raises the database's error if that fails again."""
        late = list(self.late.values())
        if not late:
            return
        try:
            with begin() as connection:
                self.write(connection, late)
        except Exception:  # noqa: BLE001 - found out below, one by one
            for workload in late:
                self._write_one(begin, workload)
        self.late.clear()

    def _write_one(self, begin: Begin, workload: Workload) -> None:
        """One workload that can not be written must not keep out its neighbours: its user is told instead."""
        try:
            with translated(), begin() as connection:
                self.write(connection, [workload])
        except StoreUnavailable:
            raise  # not this workload's fault: all of them are written later
        except Exception as error:  # noqa: BLE001 - the same again decides what it was
            reason = f"the workload can not be stored: {type(error).__name__}"
            with begin() as connection:
                self.write(connection, [rejected(workload, reason)])
        self.late.pop(workload.ti_id, None)

    def write(self, connection: Connection, workloads: Sequence[Workload]) -> None:
        shim.insert(connection, self._identify(connection, workloads))

    def committed(self, workloads: Sequence[Workload], *, written: bool) -> None:
        with self._trouble.contained("announcing workloads"):
            for workload in workloads:
                if not written:
                    self.late[workload.ti_id] = workload
                self._committed(workload)

    def write_in(self, session: Session, workloads: Sequence[Workload]) -> bool:
        """Whether the workloads have been written in the session's transaction."""
        with self._trouble.contained("writing workloads"):
            with savepoint(session) as connection:
                self.write(connection, workloads)
            return True
        return False


class _Buffer:
    """What one session has queued in its present transaction. Savepoints of the session itself are not its end."""

    def __init__(self, enqueue: Enqueue) -> None:
        self._enqueue = enqueue
        self._written = False
        self.workloads: list[Workload] = []

    def write(self, session: Session) -> None:
        if self.workloads and not session.in_nested_transaction():
            # `airflow dags test --use-executor` hands a task over first, and makes it QUEUED then, in the session only.
            session.flush()
            self._written = self._enqueue.write_in(session, self.workloads)

    def announce(self, session: Session) -> None:
        if self.workloads and not session.in_nested_transaction():
            workloads, self.workloads = self.workloads, []
            self._enqueue.committed(workloads, written=self._written)

    def forget(self, session: Session, transaction: SessionTransaction) -> None:  # noqa: ARG002 - SQLAlchemy's signature
        """Rolled back, or closed without a commit: Airflow has not queued these after all."""
        if transaction.parent is None:
            self.workloads = []
