"""What a started executor is made of, put together for one scheduler."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

import airflow
from airflow.configuration import conf
from airflow.executors.executor_loader import ExecutorLoader
from sqlalchemy.orm import object_session

import reconciler
from reconciler.airflow import auditlog
from reconciler.airflow.adoption import adopt, adopt_started, take_over
from reconciler.airflow.audit import Audit
from reconciler.airflow.delivery import Delivery, Owner
from reconciler.airflow.enqueue import Enqueue, savepoint
from reconciler.airflow.options import read, reader
from reconciler.airflow.slots import Slots
from reconciler.airflow.transactions import Apart, airflow_engine, begin, shared
from reconciler.airflow.upkeep import Every, Upkeep
from reconciler.airflow.views import Naming, SchedulerSide, identified
from reconciler.airflow.workloads import key_of, to_row
from reconciler.config import AIRFLOW_SETTINGS, ConfigError, shim_settings
from reconciler.store import shim
from reconciler.store.components import ANNOUNCE_EVERY, Component, announce

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from airflow.executors.base_executor import BaseExecutor
    from airflow.executors.workloads import ExecuteCallback, ExecuteTask
    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy.orm import Session

    from reconciler.airflow.trouble import Trouble
    from reconciler.config import ShimSettings
    from reconciler.core.task import Workload

__all__ = ["Parts"]

UPKEEP_EVERY: Final = timedelta(seconds=5)
SECOND_LOOK_EVERY: Final = timedelta(seconds=1)
AUDIT_EVERY: Final = timedelta(seconds=1)
DEMAND_EVERY: Final = timedelta(seconds=1)
PUT_OFF: Final = 3
"""While upkeep hurries, so many heartbeats in a row leave the audit log alone, and then one leaves upkeep alone."""


class Parts:
    """The executor's work, in parts of which none can keep the others from theirs. Times are the database's."""

    def __init__(self, executor: BaseExecutor, trouble: Trouble) -> None:
        """Raises ConfigError."""
        options = shim_settings(reader(executor.team_name))
        _check_database()
        self._shares = options.shares
        self.slots = Slots(options.max_running_tasks, options.backlog)
        self.enqueue = Enqueue(partial(identified, naming=_naming(executor)), self._committed, trouble)
        self._executor = executor
        self._trouble = trouble
        # `airflow dags test --use-executor` has no scheduler job; 0 is nobody's.
        self._owner = Owner(options.deployment, int(executor.job_id or 0), executor.team_name)
        self._transactions = Apart() if airflow_engine().dialect.name == "sqlite" else shared()
        side = SchedulerSide(self._transactions, executor, self.enqueue)
        self._delivery = Delivery(self._transactions, side, self._owner, options.max_run_task_attempts)
        shed_after = timedelta(seconds=conf.getfloat("scheduler", "task_queued_timeout")) / 3
        self._upkeep = Upkeep(self._transactions, side, self._owner, shed_after, auditlog.asked_by)
        self._audit = Audit(self._transactions, auditlog.write, self._owner)
        self._upkeep_due, self._second_look_due = Every(UPKEEP_EVERY), Every(SECOND_LOOK_EVERY)
        self._audit_due = Every(AUDIT_EVERY)
        self._put_off = 0
        self._demand_due = Every(DEMAND_EVERY)
        self._announce_due = Every(timedelta(seconds=ANNOUNCE_EVERY))
        self._me = _component(executor, options)
        if executor.parallelism < options.max_running_tasks:
            executor.log.info(
                "[core] parallelism is %d: this scheduler will not use all of [ecs_reconciler] max_running_tasks = %d",
                executor.parallelism,
                options.max_running_tasks,
            )

    def queue(self, workload: ExecuteTask | ExecuteCallback, session: Session) -> None:
        owner = self._owner
        self.enqueue.add(session, to_row(workload, deployment=owner.deployment, team=owner.team, owner=owner.job_id))

    def _committed(self, workload: Workload) -> None:
        self._executor.running.add(key_of(workload))
        self._upkeep.learn(workload)
        self.slots.take()

    def sync(self) -> None:
        with self._trouble.contained("writing late workloads"):
            self.enqueue.write_late(begin)
        try:
            self._look()
        finally:
            with self._trouble.contained("ending a transaction"):
                self._transactions.end()

    def _look(self) -> None:
        now = self._delivery.now
        # The scheduler waits: no heartbeat has both this and what can wait, and neither waits for long.
        looks = now is not None and self._put_off < PUT_OFF and self._upkeep_is_due(now)
        self._put_off = self._put_off + 1 if looks else 0
        if now is not None and looks:
            with self._trouble.contained("upkeep"):
                self._upkeep.run(now)
        with self._trouble.contained("delivery"):
            self._delivery.deliver()
        now = self._delivery.now
        if now is not None and self._demand_due.due(now):
            with self._trouble.contained("reading the demand"):
                with self._transactions.read() as connection:
                    demand = shim.demand(connection, self._owner.deployment, self._shares)
                self.slots.refresh(demand)
        if now is None or looks:
            return
        if self._audit_due.due(now):
            with self._trouble.contained("writing the audit log"):
                self._audit.tell()
        if self._announce_due.due(now):
            with self._trouble.contained("announcing settings"), self._transactions.begin() as connection:
                announce(connection, self._owner.deployment, self._me)

    def _upkeep_is_due(self, now: datetime) -> bool:
        soon = self._second_look_due.due(now) and self._upkeep.hurry
        return self._upkeep_due.due(now) or soon

    def end(self) -> None:
        """The scheduler stops."""
        self.enqueue.write_late(begin)
        self._transactions.close()

    def adopt(self, session: Session, tis: Sequence[TaskInstance]) -> list[TaskInstance]:
        """Returns those that can not be adopted."""
        owned, workloads = take_over(session, tis, self._owner)
        self._executor.running.update(key_of(w) for w in workloads)
        reset = []
        for ti in tis:
            adopted = ti.external_executor_id in owned
            if not adopted:
                with self._trouble.contained("adopting an ECS task of another executor"):
                    started = adopt_started(session, ti, self._owner)
                    if adopted := started is not None:
                        self._executor.running.add(key_of(started))
            if not adopted:
                with self._trouble.contained("adopting a task instance"):
                    adopted = adopt(session, ti, self._owner, self.enqueue)
            if not adopted:
                reset.append(ti)
        return reset

    def revoke(self, ti: TaskInstance) -> None:
        self.enqueue.late.pop(str(ti.id), None)
        self._executor.running.discard(ti.key)
        if not ti.external_executor_id:
            return
        session = object_session(ti)
        # In the transaction that takes the task out of QUEUED: neither happens without the other.
        with savepoint(session) if session else begin() as connection:
            shim.want_stop(connection, [ti.external_executor_id], "it was QUEUED for longer than task_queued_timeout")


def _component(executor: BaseExecutor, options: ShimSettings) -> Component:
    """What this scheduler is set to, for `doctor`: the daemon may be set to something else."""
    its = {f"[{section}] {option}": read(section, option) for section, option in AIRFLOW_SETTINGS}
    instance = f"scheduler job {executor.job_id}" + (f", team {executor.team_name}" if executor.team_name else "")
    settings = {"options": asdict(options), "airflow": {"version": airflow.__version__, **its}}
    return Component("shim", instance, reconciler.__version__, settings)


def _check_database() -> None:
    dialect = airflow_engine().dialect.name
    if dialect not in ("postgresql", "sqlite"):
        problem = (
            f"[database] sql_alchemy_conn is a {dialect} database: EcsReconcilerExecutor keeps its table beside "
            "Airflow's, in PostgreSQL or SQLite. Move the metadata database to PostgreSQL, or choose another executor."
        )
        raise ConfigError([problem])


def _naming(executor: BaseExecutor) -> Naming:
    if not executor.job_id:
        # Not in a scheduler, and only a scheduler gives ids.
        return Naming(alone=False, default=False, names=frozenset())
    configured = ExecutorLoader.get_executor_names()
    name = executor.name
    names = {name.alias, name.module_path} - {None} if name else set()
    return Naming(
        alone=len(configured) <= 1,
        default=bool(name and configured and configured[0] == name),
        names=frozenset(n for n in names if n),
    )
