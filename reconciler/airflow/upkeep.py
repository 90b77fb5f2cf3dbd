"""The slower half of a scheduler's work: comparing open workloads with what Airflow still wants.

Free of Airflow, as `delivery` is.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, case, select

from reconciler.core.holds import Mode
from reconciler.core.phase import Desired, Phase
from reconciler.core.task import Kind, TaskKey, Workload
from reconciler.store import schema, shim
from reconciler.store.holds import read_holds
from reconciler.store.rows import Joined, among, batches, say_unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import Connection, Select

    from reconciler.airflow.delivery import AirflowSide, Owner, Transactions
    from reconciler.core.deliver import CallbackView, TaskInstanceView

__all__ = ["Every", "Upkeep", "open_rows", "unwanted_callback", "unwanted_task"]

TAKE_OVER_EVERY: Final = timedelta(seconds=60)
NEW, DOUBTED, SHED = 200, 200, 100
"""How many workloads one pass gets to know, looks at one by one, and gives back: a scheduler waits meanwhile."""


class Every:
    """Says yes at most once per period, by whatever clock it is shown."""

    def __init__(self, period: timedelta) -> None:
        self._period = period
        self._last: datetime | None = None

    def due(self, now: datetime) -> bool:
        if self._last is not None and timedelta(0) <= now - self._last < self._period:
            return False
        self._last = now
        return True


def unwanted_task(w: Workload, ti: TaskInstanceView | None) -> str | None:
    """What was seen of the task instance that does not want this workload any more, or None if it does."""
    if ti is None:
        return "the task instance is gone"
    if ti.state in ("queued", "running"):
        if ti.external_executor_id == w.exec_id:
            return None
        return f"the task instance was queued again as {ti.external_executor_id}"
    if ti.id != w.ti_id and ti.state != "up_for_retry":  # which renews the id as well
        return f"the task instance was cleared, and is {ti.state or 'not scheduled'}"
    return f"the task instance is {ti.state or 'not scheduled'}"


def unwanted_callback(callback: CallbackView | None) -> str | None:
    """The same for a callback."""
    if callback is None:
        return "the callback is gone"
    return f"the callback is {callback.state}" if callback.state in ("success", "failed") else None


_w: Final = schema.workloads.c
_mine: Final = (
    _w.deployment == bindparam("deployment"),
    _w.owner_job_id == bindparam("job_id"),
    _w.team.is_not_distinct_from(bindparam("team")),
)
_ROWS: Final = select(
    *(_w.exec_id, _w.phase, _w.desired, _w.kind, _w.ti_id),
    *(_w.dag_id, _w.task_id, _w.run_id, _w.map_index, _w.try_number),
).where(*_mine)
_OPEN: Final = _ROWS.where(schema.opened(schema.workloads))
_SOME: Final = _ROWS.where(schema.standing(schema.workloads), among(_w.exec_id, "ids"))
_WANTED: Final = _SOME.where(_w.desired == Desired.RUN.value)
_DOUBTED: Final = _WANTED.order_by(case((_w.phase == Phase.RUNNING.value, 1), else_=0), _w.exec_id).limit(DOUBTED + 1)
"""Most that is in doubt has reported its outcome and is about to end: what has not begun comes first."""
_IDS: Final = select(Joined(_w.exec_id)).where(*_mine)
_OPEN_AND_REFUSED: Final = select(
    _IDS.where(schema.opened(schema.workloads)).scalar_subquery(),
    _IDS.where(schema.refused(schema.workloads)).scalar_subquery(),
)


def _open_and_refused(connection: Connection, owner: Owner) -> tuple[set[str], set[str]]:
    """Each as one text, and both at once: there may be thousands, and a scheduler waits."""
    opened, refused = connection.execute(_OPEN_AND_REFUSED, _whose(owner)).one()
    return set(opened.split(",") if opened else ()), set(refused.split(",") if refused else ())


def open_rows(connection: Connection, owner: Owner) -> dict[str, Workload]:
    """The owner's open workloads by exec_id, with what upkeep needs of them and no more."""
    return _workloads(connection.execute(_OPEN, _whose(owner)).all(), owner)


def _named(
    connection: Connection, statement: Select[Any], owner: Owner, exec_ids: Collection[str]
) -> dict[str, Workload]:
    """Those that a statement finds of the workloads of these names."""
    whose = _whose(owner)
    rows = [row for ids in batches(exec_ids) for row in connection.execute(statement, {**whose, "ids": ids})]
    return _workloads(rows, owner)


def _workloads(rows: Sequence[Any], owner: Owner) -> dict[str, Workload]:
    found: dict[str, Workload] = {}
    for exec_id, phase, desired, kind, ti_id, *key in rows:
        try:
            words: Any = {"kind": Kind(kind), "phase": Phase(phase), "desired": Desired(desired)}
        except ValueError as error:
            say_unreadable(exec_id, str(error))
            continue
        found[exec_id] = Workload(
            exec_id=exec_id,
            deployment=owner.deployment,
            ti_id=ti_id,
            key=TaskKey(*key),
            team=owner.team,
            owner_job_id=owner.job_id,
            **words,
        )
    return found


def _whose(owner: Owner) -> dict[str, Any]:
    return {"deployment": owner.deployment, "job_id": owner.job_id, "team": owner.team}


class Upkeep:
    """Heals the bookkeeping, withdraws what nobody wants, gives back what waits too long, takes over from the dead."""

    def __init__(
        self,
        transactions: Transactions,
        airflow: AirflowSide,
        owner: Owner,
        shed_after: timedelta,
        asked_by: Callable[[Connection, Collection[str]], Mapping[str, str]] = lambda *_: {},
    ) -> None:
        """`asked_by`: who ended the task instances of these exec_ids, where that is known."""
        self._transactions = transactions
        self._airflow = airflow
        self._owner = owner
        self._shed_after = shed_after
        self._asked_by = asked_by
        self._open: dict[str, Workload] = {}
        self._unread: set[str] = set()
        self._suspects: set[str] = set()
        self.hurry = False
        """The next pass had better come soon: something that has not begun to run seems unwanted, and the second look
        should come before its launch; or there was more to do than a pass takes on."""
        self._take_over_due = Every(TAKE_OVER_EVERY)

    def run(self, now: datetime) -> None:
        if self._take_over_due.due(now):
            self._take_over()
        with self._transactions.read() as connection:
            # The refused hold no slot, and will be launched again, if need be after hours of the daemon's absence.
            opened, refused = _open_and_refused(connection, self._owner)
            complete = self._learn_of(connection, opened)
        if complete:
            self._airflow.hold(list(self._open.values()))
        tasks = [exec_id for exec_id, w in self._open.items() if w.kind is Kind.TASK]
        callbacks = self._open.keys() - tasks
        # In a later statement than the rows: a workload that was queued since is not among them.
        with self._transactions.read() as connection:
            doubtful = self._airflow.in_doubt(connection, self._owner, [*tasks, *refused])
            # As they are now. What has been withdrawn stays so, and is not looked at any more.
            wanted = _named(connection, _DOUBTED, self._owner, doubtful)
            wanted |= _named(connection, _WANTED, self._owner, callbacks)
            waiting = self._waiting(connection)
        # Each batch has its own first ones.
        mine = sorted((w for w in wanted.values() if w.kind is Kind.TASK), key=lambda w: w.phase is Phase.RUNNING)
        mine, more = mine[:DOUBTED], mine[DOUBTED:]
        tis = self._airflow.task_instances([w.key for w in mine])
        self._hand_over(mine, tis)
        reasons = {w.exec_id: unwanted_task(w, tis.get(w.key)) for w in mine}
        reasons |= self._callbacks([w for w in wanted.values() if w.kind is Kind.CALLBACK])
        self._withdraw({exec_id: why for exec_id, why in reasons.items() if why}, wanted)
        self.hurry |= bool(more) or not complete
        self._shed(waiting)

    def learn(self, workload: Workload) -> None:
        """One that has just been queued. What is known need not be read."""
        self._open[workload.exec_id] = workload

    def _learn_of(self, connection: Connection, ids: set[str]) -> bool:
        """Whether all open workloads are known. Whose they are never changes: only those that are new are read."""
        self._open = {exec_id: w for exec_id, w in self._open.items() if exec_id in ids}
        new = ids - self._open.keys() - self._unread
        # What could not be read comes last, or it would keep out the others.
        asked = [*sorted(new), *sorted(self._unread & ids)][:NEW]
        learned = _named(connection, _SOME, self._owner, asked)
        self._open |= learned
        self._unread = (self._unread & ids | set(asked)) - learned.keys()
        return len(new) <= NEW

    def _take_over(self) -> None:
        """Rows of dead schedulers that adoption does not reach: callbacks, and what is left to stop, to acknowledge or
        to tell the audit log."""
        # Nearly always there are none, and no reason to begin a transaction that writes.
        with self._transactions.read() as connection:
            if not self._airflow.abandoned(connection, self._owner.deployment, self._owner.team):
                return
        with self._transactions.begin() as connection:
            abandoned = self._airflow.abandoned(connection, self._owner.deployment, self._owner.team)
            shim.own(connection, abandoned, self._owner.job_id)

    def _hand_over(self, mine: Sequence[Workload], tis: Mapping[TaskKey, TaskInstanceView]) -> None:
        """Workloads whose task instance another scheduler has adopted: it must hear of the outcome."""
        adopted: dict[int, list[str]] = {}
        for w in mine:
            ti = tis.get(w.key)
            other = self._owner.lost(ti)
            if other is not None and unwanted_task(w, ti) is None:
                adopted.setdefault(other, []).append(w.exec_id)
        for other, exec_ids in sorted(adopted.items()):
            with self._transactions.begin() as connection:
                shim.own(connection, exec_ids, other)

    def _callbacks(self, mine: Sequence[Workload]) -> dict[str, str | None]:
        """Why each of them should not run any more, or None."""
        views = self._airflow.callbacks([w.ti_id or "" for w in mine])
        return {w.exec_id: unwanted_callback(views.get(w.ti_id or "")) for w in mine}

    def _withdraw(self, reasons: Mapping[str, str], seen: Mapping[str, Workload]) -> None:
        """Two passes must agree: the first may have met Airflow between two of its transactions."""
        agreed = self._suspects & reasons.keys()
        self._suspects = set(reasons)
        self.hurry = any(seen[exec_id].phase is not Phase.RUNNING for exec_id in self._suspects - agreed)
        if not agreed:
            return
        with self._transactions.begin() as connection:
            who = self._asked_by(connection, agreed)
            confirmed: dict[str, list[str]] = {}
            for exec_id in agreed:
                why = f"{reasons[exec_id]} ({who[exec_id]})" if exec_id in who else reasons[exec_id]
                confirmed.setdefault(why, []).append(exec_id)
            for why, exec_ids in sorted(confirmed.items()):
                shim.want_stop(connection, exec_ids, why)

    def _waiting(self, connection: Connection) -> Sequence[Workload]:
        """What has waited too long for its launch.

        Not what failed to start before: it would begin anew with all its attempts, for ever. If all queues are drained,
        nothing is left to wait for, so all of it goes back without having waited.
        """
        hold = read_holds(connection, self._owner.deployment).everything
        draining = hold is not None and hold.mode is Mode.DRAINING
        return shim.waiting(
            connection,
            self._owner.deployment,
            self._owner.job_id,
            timedelta(0) if draining else self._shed_after,
            SHED,
            team=self._owner.team,
            failed=draining,
        )

    def _shed(self, waiting: Sequence[Workload]) -> None:
        """Give them back to Airflow, before it calls them stuck in QUEUED."""
        tis = self._airflow.task_instances([w.key for w in waiting])
        idle = [w for w in waiting if not _runs(w, tis.get(w.key))]
        if not idle:
            return
        with self._transactions.begin() as connection:
            shed = shim.shed(connection, idle)
            self._airflow.give_back(connection, shed)
        for w in shed:
            self._airflow.release(w)
        self.hurry |= bool(shed) and len(waiting) == SHED


def _runs(w: Workload, ti: TaskInstanceView | None) -> bool:
    """Whether the task instance runs under this workload, although it has no container: Airflow may have admitted the
    container of an earlier queueing in its place. If it was cleared since, it waits to hear of this workload's end."""
    return ti is not None and ti.state in ("running", "restarting") and ti.external_executor_id == w.exec_id
