"""The slower half of a scheduler's work: comparing open workloads with what Airflow still wants.

Free of Airflow, as `delivery` is.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import bindparam, select

from reconciler.core.holds import Mode
from reconciler.core.phase import Desired, Phase
from reconciler.core.task import Kind, TaskKey, Workload
from reconciler.store import schema, shim
from reconciler.store.holds import read_holds
from reconciler.store.rows import say_unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import Connection

    from reconciler.airflow.delivery import AirflowSide, Begin, Owner
    from reconciler.core.deliver import CallbackView, TaskInstanceView

__all__ = ["Every", "Upkeep", "open_rows", "unwanted_callback", "unwanted_task"]

TAKE_OVER_EVERY: Final = timedelta(seconds=60)
LIMIT: Final = 1000
"""How many workloads one pass gives back."""


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
    if ti.id != w.ti_id:
        return f"the task instance was cleared, and is {ti.state or 'not scheduled'}"
    return f"the task instance is {ti.state or 'not scheduled'}"


def unwanted_callback(callback: CallbackView | None) -> str | None:
    """The same for a callback."""
    if callback is None:
        return "the callback is gone"
    return f"the callback is {callback.state}" if callback.state in ("success", "failed") else None


_w: Final = schema.workloads.c
_OPEN: Final = select(
    *(_w.exec_id, _w.phase, _w.desired, _w.kind, _w.ti_id),
    *(_w.dag_id, _w.task_id, _w.run_id, _w.map_index, _w.try_number),
).where(
    _w.deployment == bindparam("deployment"),
    _w.owner_job_id == bindparam("job_id"),
    schema.opened(schema.workloads),
)
_OPEN_OF_NO_TEAM: Final = _OPEN.where(_w.team.is_(None))
_OPEN_OF_TEAM: Final = _OPEN.where(_w.team == bindparam("team"))


def open_rows(connection: Connection, owner: Owner, known: Mapping[str, Workload] | None = None) -> dict[str, Workload]:
    """The owner's open workloads by exec_id, with what upkeep needs of them and no more.

    There may be a thousand, and a scheduler waits: those in `known` that have not changed are not made anew.
    """
    wanted = {"deployment": owner.deployment, "job_id": owner.job_id}
    if owner.team is None:
        rows = connection.execute(_OPEN_OF_NO_TEAM, wanted).all()
    else:
        rows = connection.execute(_OPEN_OF_TEAM, wanted | {"team": owner.team}).all()
    found: dict[str, Workload] = {}
    for exec_id, phase, desired, kind, ti_id, *key in rows:
        w = known.get(exec_id) if known else None
        if w is None or w.phase != phase or w.desired != desired:
            try:
                words: Any = {"kind": Kind(kind), "phase": Phase(phase), "desired": Desired(desired)}
            except ValueError as error:
                say_unreadable(exec_id, str(error))
                continue
            w = Workload(
                exec_id=exec_id,
                deployment=owner.deployment,
                ti_id=ti_id,
                key=TaskKey(*key),
                team=owner.team,
                owner_job_id=owner.job_id,
                **words,
            )
        found[exec_id] = w
    return found


class Upkeep:
    """Heals the bookkeeping, withdraws what nobody wants, gives back what waits too long, takes over from the dead."""

    def __init__(
        self,
        begin: Begin,
        airflow: AirflowSide,
        owner: Owner,
        shed_after: timedelta,
        asked_by: Callable[[Connection, Collection[str]], Mapping[str, str]] = lambda *_: {},
    ) -> None:
        """`asked_by`: who ended the task instances of these exec_ids, where that is known."""
        self._begin = begin
        self._airflow = airflow
        self._owner = owner
        self._shed_after = shed_after
        self._asked_by = asked_by
        self._open: dict[str, Workload] = {}
        self._suspects: set[str] = set()
        self.hurry = False
        """Something that has not begun to run seems unwanted: the second look had better come before its launch."""
        self._take_over_due = Every(TAKE_OVER_EVERY)

    def run(self, now: datetime) -> None:
        if self._take_over_due.due(now):
            self._take_over()
        with self._begin() as connection:
            self._open = open_rows(connection, self._owner, self._open)
        mine = list(self._open.values())
        self._airflow.hold(mine)
        # In a later statement than the rows: a workload that was queued since is not among them.
        with self._begin() as connection:
            in_doubt = self._airflow.in_doubt(connection, self._owner)
        doubtful = [w for w in mine if w.exec_id in in_doubt]
        tis = self._airflow.task_instances([w.key for w in doubtful])
        self._hand_over(doubtful, tis)
        reasons = {w.exec_id: unwanted_task(w, tis.get(w.key)) for w in doubtful if w.desired is Desired.RUN}
        reasons |= self._callbacks([w for w in mine if w.kind is Kind.CALLBACK])
        self._withdraw({exec_id: why for exec_id, why in reasons.items() if why})
        self._shed()

    def _take_over(self) -> None:
        """Rows of dead schedulers that adoption does not reach: callbacks, and what is left to stop or acknowledge."""
        with self._begin() as connection:
            abandoned = self._airflow.abandoned(connection, self._owner.deployment, self._owner.team)
            shim.own(connection, abandoned, self._owner.job_id)

    def _hand_over(self, mine: Sequence[Workload], tis: Mapping[TaskKey, TaskInstanceView]) -> None:
        """Workloads whose task instance another scheduler has adopted: it must hear of the outcome."""
        for w in mine:
            ti = tis.get(w.key)
            other = self._owner.lost(ti)
            if other is not None and unwanted_task(w, ti) is None:
                with self._begin() as connection:
                    shim.own(connection, [w.exec_id], other)

    def _callbacks(self, mine: Sequence[Workload]) -> dict[str, str | None]:
        """Why each of them should not run any more, or None."""
        views = self._airflow.callbacks([w.ti_id or "" for w in mine])
        return {w.exec_id: unwanted_callback(views.get(w.ti_id or "")) for w in mine if w.desired is Desired.RUN}

    def _withdraw(self, reasons: Mapping[str, str]) -> None:
        """Two passes must agree: the first may have met Airflow between two of its transactions."""
        agreed = self._suspects & reasons.keys()
        self._suspects = set(reasons)
        self.hurry = any(self._open[exec_id].phase is not Phase.RUNNING for exec_id in self._suspects - agreed)
        if not agreed:
            return
        with self._begin() as connection:
            who = self._asked_by(connection, agreed)
            confirmed: dict[str, list[str]] = {}
            for exec_id in agreed:
                why = f"{reasons[exec_id]} ({who[exec_id]})" if exec_id in who else reasons[exec_id]
                confirmed.setdefault(why, []).append(exec_id)
            for why, exec_ids in sorted(confirmed.items()):
                shim.want_stop(connection, exec_ids, why)

    def _shed(self) -> None:
        """Give back to Airflow what has waited too long for its launch, before Airflow calls it stuck in QUEUED.

        Not what failed to start before: it would begin anew with all its attempts, for ever. If all queues are drained,
        nothing is left to wait for, so all of it goes back at once.
        """
        deployment, job_id = self._owner.deployment, self._owner.job_id
        with self._begin() as connection:
            hold = read_holds(connection, deployment).everything
            draining = hold is not None and hold.mode is Mode.DRAINING
            older_than = timedelta(0) if draining else self._shed_after
            waiting = shim.waiting(connection, deployment, job_id, older_than, LIMIT).workloads
        mine = [
            w for w in waiting if self._owner.owns(w) and w.kind is Kind.TASK and (draining or w.start_failures == 0)
        ]
        tis = self._airflow.task_instances([w.key for w in mine])
        idle = [w for w in mine if not _runs(w, tis.get(w.key))]
        with self._begin() as connection:
            shed = shim.shed(connection, idle)
            self._airflow.give_back(connection, shed)
        for w in shed:
            self._airflow.release(w)


def _runs(w: Workload, ti: TaskInstanceView | None) -> bool:
    """Whether the task instance runs under this workload, although it has no container: Airflow may have admitted the
    container of an earlier queueing in its place."""
    return ti is not None and ti.state == "running" and ti.external_executor_id == w.exec_id
