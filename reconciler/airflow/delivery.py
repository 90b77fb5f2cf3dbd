"""Telling Airflow what became of workloads, again and again until it is done.

Free of Airflow: what is needed of it comes in as an `AirflowSide`, so that a simulator can be Airflow as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol

from reconciler.core.deliver import Acknowledge, Fail, Refuse, Succeed, deliver_callback, deliver_task
from reconciler.core.phase import Desired, Phase
from reconciler.core.task import Kind
from reconciler.store import shim

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime

    from sqlalchemy import Connection

    from reconciler.core.deliver import CallbackView, TaskInstanceView, Verdict
    from reconciler.core.task import TaskKey, Workload

__all__ = ["AirflowSide", "Delivery", "Event", "Owner", "Transactions"]

LIMIT: Final = 1000
"""How many outcomes one heartbeat looks at."""


class Event(StrEnum):
    """What this executor tells a scheduler, and no more.

    Airflow writes QUEUED and RUNNING whatever came in between: over the id of a task instance that was queued again,
    and over the outcome of a callback that has ended, if the scheduler was paused before it looked at the event.
    """

    SUCCESS = "success"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose workloads these are: of a scheduler's job, and of a team if there are teams."""

    deployment: str
    job_id: int
    team: str | None = None

    def owns(self, workload: Workload) -> bool:
        return workload.team == self.team

    def lost(self, ti: TaskInstanceView | None) -> int | None:
        """The job that has the task instance by now, if it is another one: Airflow would drop our events."""
        job_id = ti.queued_by_job_id if ti else None
        return job_id if job_id != self.job_id else None


class Transactions(Protocol):
    """On the database that holds our tables and Airflow's."""

    def read(self) -> AbstractContextManager[Connection]:
        """Each statement shows what has been committed by then."""

    def begin(self) -> AbstractContextManager[Connection]:
        """One that writes."""


class AirflowSide(Protocol):
    """Airflow's tables, and the executor's face toward its scheduler."""

    def task_instances(self, keys: Collection[TaskKey]) -> Mapping[TaskKey, TaskInstanceView]:
        """Task instances as they are now, by their natural key: the try number does not matter."""

    def callbacks(self, ids: Collection[str]) -> Mapping[str, CallbackView]: ...

    def in_doubt(self, connection: Connection, owner: Owner, exec_ids: Collection[str]) -> set[str]:
        """Those of these workloads whose task instance is not active under them, or not this scheduler's.

        It may name too many: those in doubt are looked at one by one.
        """

    def give_back(self, connection: Connection, workloads: Sequence[Workload]) -> None:
        """Make the task instances SCHEDULED that are still QUEUED under just these workloads."""

    def abandoned(self, connection: Connection, deployment: str, team: str | None) -> set[str]:
        """The exec_ids of unfinished business whose scheduler does not run any more."""

    def emit(self, workload: Workload, event: Event, info: str | None = None) -> None:
        """Put an event into the executor's buffer."""

    def hold(self, workloads: Sequence[Workload]) -> None:
        """These, and no others, occupy the executor."""

    def release(self, workload: Workload) -> None:
        """This one does not occupy the executor any more."""


class Delivery:
    """One pass over the outcomes that have not been acknowledged."""

    def __init__(
        self, transactions: Transactions, airflow: AirflowSide, owner: Owner, max_run_task_attempts: int
    ) -> None:
        self._transactions = transactions
        self._airflow = airflow
        self._owner = owner
        self._max_run_task_attempts = max_run_task_attempts
        self.now: datetime | None = None
        """The database's clock, when the outcomes were last read."""

    def deliver(self) -> None:
        with self._transactions.read() as connection:
            snapshot = shim.undelivered(connection, self._owner.deployment, self._owner.job_id, LIMIT)
            mine = [w for w in snapshot.workloads if self._owner.owns(w) and not _refused(w)]
            newest = shim.newest(connection, [w for w in mine if w.kind is Kind.TASK])
        # Before anything of the outcomes can fail: the rest of a scheduler's work does not wait for them.
        self.now = snapshot.now
        for w in mine:
            # Before any event: a key that is left behind makes Airflow ignore it.
            if w.kind is Kind.CALLBACK or w.exec_id in newest:
                self._airflow.release(w)
        if mine:
            # Read after the rows, in a later statement: what a row says has had its effect on Airflow by then.
            tis = self._airflow.task_instances([w.key for w in mine if w.kind is Kind.TASK])
            callbacks = self._airflow.callbacks([w.ti_id or "" for w in mine if w.kind is Kind.CALLBACK])
            judged = [(w, self._judge(w, tis, callbacks, snapshot.now, newest)) for w in mine]
            self._apply(judged, tis)

    def _judge(
        self,
        w: Workload,
        tis: Mapping[TaskKey, TaskInstanceView],
        callbacks: Mapping[str, CallbackView],
        now: datetime,
        newest: set[str],
    ) -> Verdict:
        if w.kind is Kind.CALLBACK:
            return deliver_callback(w, callbacks.get(w.ti_id or ""))
        return deliver_task(
            w,
            tis.get(w.key),
            now,
            max_run_task_attempts=self._max_run_task_attempts,
            newest=w.exec_id in newest,
        )

    def _apply(self, judged: Sequence[tuple[Workload, Verdict]], tis: Mapping[TaskKey, TaskInstanceView]) -> None:
        acknowledged, refused = [], []
        handed_over: dict[int, list[str]] = {}
        for w, verdict in judged:
            match verdict:
                case Acknowledge():
                    acknowledged.append(w)
                case Refuse():
                    refused.append(w)
                case Fail() | Succeed() if other := self._owner.lost(tis.get(w.key)):
                    handed_over.setdefault(other, []).append(w.exec_id)
                case Fail(info):
                    self._airflow.emit(w, Event.FAILED, info)
                case Succeed():
                    self._airflow.emit(w, Event.SUCCESS)
        if acknowledged or refused or handed_over:
            with self._transactions.begin() as connection:
                shim.acknowledge(connection, acknowledged)
                shim.refuse(connection, refused)
                for other, exec_ids in sorted(handed_over.items()):
                    shim.own(connection, exec_ids, other)


def _refused(w: Workload) -> bool:
    """About to be launched again: there is nothing to tell, perhaps for as long as Airflow's API server is down."""
    return w.refused and w.phase is Phase.EXITED and w.desired is Desired.RUN
