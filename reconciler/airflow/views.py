"""Airflow's own tables, as far as we read and write them, and the executor's face toward its scheduler."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeVar, cast

from airflow._shared.timezones import timezone
from airflow.jobs.job import Job, JobState
from airflow.models.callback import Callback
from airflow.models.taskinstance import TaskInstance
from airflow.utils.state import CallbackState, TaskInstanceState
from sqlalchemy import Table, bindparam, case, exists, func, or_, select, tuple_, union, update

from reconciler.airflow.workloads import key_of
from reconciler.core.deliver import CallbackView, TaskInstanceView
from reconciler.core.identity import derived_exec_id
from reconciler.core.task import Kind
from reconciler.store import schema
from reconciler.store.rows import Joined

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from airflow.executors.base_executor import BaseExecutor
    from airflow.executors.workloads.types import WorkloadKey
    from sqlalchemy import ColumnElement, Connection, Exists, RowMapping

    from reconciler.airflow.delivery import Event, Owner, Transactions
    from reconciler.airflow.enqueue import Enqueue
    from reconciler.core.task import TaskKey, Workload

__all__ = ["Naming", "SchedulerSide", "identified"]

_ti: Final = cast(Table, TaskInstance.__table__).c
_job: Final = cast(Table, Job.__table__).c
_callback: Final = cast(Table, Callback.__table__).c
_w: Final = schema.workloads.c

T = TypeVar("T")

BATCH: Final = 1000
"""Keys per statement: SQLite takes 32,766 parameters, and a key has four of them."""


@dataclass(frozen=True, slots=True)
class Naming:
    """How tasks name this executor, and so whether Airflow gave them an id that is new."""

    alone: bool
    """It is the only executor."""
    default: bool
    """It is the one for tasks that name none."""
    names: frozenset[str]
    """Its alias and its module path."""

    def numbers(self, executor: str | None) -> bool:
        """Whether Airflow gives a new id to each queueing of a task that names its executor like this.

        Where several executors are configured, a task that names ours by its class alone keeps the id of its last
        queueing, and so does one of a team.
        Source: airflow/jobs/scheduler_job_runner.py, _executable_task_instances_to_queued.
        """
        return self.alone or (self.default if executor is None else executor in self.names)


def identified(connection: Connection, workloads: Sequence[Workload], naming: Naming) -> list[Workload]:
    """The workloads with the exec_ids that their task instances have; where Airflow gave none, one is derived and set.

    In the transaction in which Airflow queues them. Those whose task instance is not QUEUED are left out then.
    """
    if naming.alone and all(w.exec_id for w in workloads):
        return list(workloads)
    found = {row["id"]: row for row in _queued(connection, [w.ti_id for w in workloads if w.kind is Kind.TASK])}
    result, numbered = [], []
    for w in workloads:
        if w.kind is Kind.CALLBACK:
            result.append(w)
        elif row := found.get(uuid.UUID(w.ti_id)):
            exec_id = row["external_executor_id"]
            if not exec_id or not naming.numbers(row["executor"]):
                since = row["queued_dttm"] or f"{row['queueings']} queueings"
                exec_id = derived_exec_id(w.deployment, w.ti_id, since, w.key.try_number)
                numbered.append({"ti": row["id"], "exec_id": exec_id})
            result.append(replace(w, exec_id=exec_id))
    if numbered:
        number = update(TaskInstance.__table__).where(_ti.id == bindparam("ti"))
        connection.execute(number.values(external_executor_id=bindparam("exec_id")), numbered)
    return result


def _queued(connection: Connection, ids: Sequence[str | None]) -> Iterator[RowMapping]:
    """What tells a queueing from the one before: its time, and where Airflow sets none, as in `airflow dags test`, how
    many there were."""
    earlier = select(func.count()).where(_w.dag_id == _ti.dag_id, _w.task_id == _ti.task_id, _w.run_id == _ti.run_id)
    earlier = earlier.where(_w.map_index == _ti.map_index)
    queueings = earlier.scalar_subquery().label("queueings")
    columns = (_ti.id, _ti.executor, _ti.external_executor_id, _ti.queued_dttm, queueings)
    for some in _batches([uuid.UUID(ti_id) for ti_id in ids]):
        queued = select(*columns).where(_ti.id.in_(some), _ti.state == TaskInstanceState.QUEUED.value)
        yield from connection.execute(queued).mappings()


_ACTIVE: Final = select(Joined(_ti.external_executor_id)).where(
    _ti.state.in_([TaskInstanceState.QUEUED.value, TaskInstanceState.RUNNING.value]),
    or_(_ti.queued_by_job_id == bindparam("job_id"), _ti.queued_by_job_id.is_(None)),
)
"""As one text: there may be thousands, and a scheduler waits."""
_UNTOLD: Final = select(schema.attempts.c.exec_id).where(schema.untold(schema.attempts))


class SchedulerSide:
    """Implements `AirflowSide` in a scheduler."""

    def __init__(self, transactions: Transactions, executor: BaseExecutor, enqueue: Enqueue) -> None:
        self._transactions = transactions
        self._executor = executor
        self._enqueue = enqueue
        self._keys: dict[str, WorkloadKey] = {}

    def task_instances(self, keys: Collection[TaskKey]) -> Mapping[TaskKey, TaskInstanceView]:
        natural = tuple_(_ti.dag_id, _ti.task_id, _ti.run_id, _ti.map_index)
        wanted: dict[tuple[str, str, str, int], list[TaskKey]] = {}
        for key in keys:
            wanted.setdefault((key.dag_id, key.task_id, key.run_id, key.map_index), []).append(key)
        views: dict[TaskKey, TaskInstanceView] = {}
        for some in _batches(list(wanted)):
            columns = (
                _ti.id,
                _ti.state,
                _ti.try_number,
                _ti.external_executor_id,
                _ti.queued_by_job_id,
                _ti.last_heartbeat_at,
            )
            statement = select(_ti.dag_id, _ti.task_id, _ti.run_id, _ti.map_index, *columns).where(natural.in_(some))
            with self._transactions.read() as connection:
                for dag_id, task_id, run_id, map_index, ti_id, *rest in connection.execute(statement):
                    view = TaskInstanceView(str(ti_id), *rest)
                    views.update(dict.fromkeys(wanted[dag_id, task_id, run_id, map_index], view))
        return views

    def callbacks(self, ids: Collection[str]) -> Mapping[str, CallbackView]:
        views: dict[str, CallbackView] = {}
        for some in _batches([uuid.UUID(callback_id) for callback_id in ids]):
            with self._transactions.read() as connection:
                rows = connection.execute(select(_callback.id, _callback.state).where(_callback.id.in_(some)))
                views.update({str(callback_id): CallbackView(state or "") for callback_id, state in rows})
        return views

    def in_doubt(self, connection: Connection, owner: Owner, exec_ids: Collection[str]) -> set[str]:
        # No join with our rows. USE CAUTION when making one: with statistics from before a burst PostgreSQL expects
        # next to no active task instance, and compares each row with each of them.
        if not exec_ids:
            return set()
        active = connection.execute(_ACTIVE, {"job_id": owner.job_id}).scalar_one()
        return set(exec_ids).difference((active or "").split(","))

    def give_back(self, connection: Connection, workloads: Sequence[Workload]) -> None:
        """What Airflow itself does to a task that is stuck in QUEUED, without leaving a trace in its audit log.

        Source: airflow/jobs/scheduler_job_runner.py, _reschedule_stuck_task.
        """
        for some in _batches(list(workloads)):
            statement = (
                update(TaskInstance.__table__)
                .where(
                    _ti.id.in_([uuid.UUID(w.ti_id) for w in some]),
                    _ti.state == TaskInstanceState.QUEUED.value,
                    _ti.external_executor_id.in_([w.exec_id for w in some]),
                )
                .values(
                    state=TaskInstanceState.SCHEDULED.value,
                    queued_dttm=None,
                    queued_by_job_id=None,
                    scheduled_dttm=timezone.utcnow(),
                )
            )
            connection.execute(statement)

    def abandoned(self, connection: Connection, deployment: str, team: str | None) -> set[str]:
        of_the_dead = (
            select(_w.exec_id)
            .join_from(schema.workloads, cast(Table, Job.__table__), _job.id == _w.owner_job_id, isouter=True)
            .where(
                _w.deployment == deployment,
                _w.team.is_(None) if team is None else _w.team == team,
                # Job 0 is whoever ran `airflow dags test`: while its task waits or runs, perhaps it still does.
                case((_w.owner_job_id == 0, ~_active()), else_=_job.state.is_distinct_from(JobState.RUNNING.value)),
            )
        )
        statement = union(
            of_the_dead.where(or_(schema.opened(schema.workloads), schema.undelivered(schema.workloads))),
            # Not a third alternative above: with a subquery among them, none is served by its index.
            of_the_dead.where(_w.kind == Kind.TASK.value, _w.exec_id.in_(_UNTOLD)),
        )
        return set(connection.execute(statement).scalars())

    def emit(self, workload: Workload, event: Event, info: str | None = None) -> None:
        states = CallbackState if workload.kind is Kind.CALLBACK else TaskInstanceState
        self._executor.change_state(key_of(workload), states(event.value), info, remove_running=True)

    def hold(self, workloads: Sequence[Workload]) -> None:
        known = self._keys
        self._keys = {w.exec_id: known.get(w.exec_id) or key_of(w) for w in workloads}
        self._executor.running = {*self._keys.values(), *map(key_of, self._enqueue.late.values())}

    def release(self, workload: Workload) -> None:
        self._executor.running.discard(key_of(workload))


def _active(*more: ColumnElement[bool]) -> Exists:
    """A task instance is QUEUED or RUNNING under this very workload."""
    return exists().where(
        *(_ti.dag_id == _w.dag_id, _ti.task_id == _w.task_id),
        *(_ti.run_id == _w.run_id, _ti.map_index == _w.map_index),
        _ti.state.in_([TaskInstanceState.QUEUED.value, TaskInstanceState.RUNNING.value]),
        _ti.external_executor_id == _w.exec_id,
        *more,
    )


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]
