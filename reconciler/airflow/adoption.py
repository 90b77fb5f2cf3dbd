"""Taking over the task instances of a scheduler that died."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow.executors.workloads import ExecuteTask
from airflow.utils.state import TaskInstanceState

from reconciler.airflow.enqueue import savepoint
from reconciler.airflow.upkeep import open_rows
from reconciler.airflow.workloads import to_row
from reconciler.core import identity
from reconciler.core.phase import Phase
from reconciler.store import shim
from reconciler.store.rows import read_now

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy.orm import Session

    from reconciler.airflow.delivery import Owner
    from reconciler.airflow.enqueue import Enqueue
    from reconciler.core.task import Workload

__all__ = ["adopt", "adopt_started", "queued_again", "take_over"]


def take_over(session: Session, tis: Sequence[TaskInstance], owner: Owner) -> tuple[set[str], Sequence[Workload]]:
    """Own the workloads of these task instances, in the transaction that holds their locks.

    Returns the exec_ids that exist, and all open workloads of the owner: its bookkeeping from now on.
    """
    exec_ids = [ti.external_executor_id for ti in tis if ti.external_executor_id]
    with savepoint(session) as connection:
        owned = shim.adopt(connection, exec_ids, owner.job_id, owner.team)
        return owned, list(open_rows(connection, owner).values())


def adopt(session: Session, ti: TaskInstance, owner: Owner, enqueue: Enqueue) -> bool:
    """Whether a task instance without a workload can be adopted all the same. If not, Airflow resets it."""
    if ti.state == TaskInstanceState.QUEUED and _is_uuid(ti.external_executor_id):
        # Its scheduler died after it had committed QUEUED and before it could write the row.
        enqueue.add(session, queued_again(ti, owner))
        return True
    # It runs somewhere that is not ECS, under the executor that was configured before ours. As long as it has a
    # heartbeat it needs none of us: it tells Airflow its own outcome, and Airflow fails it if it falls silent.
    return bool(ti.state == TaskInstanceState.RUNNING and ti.last_heartbeat_at)


def adopt_started(session: Session, ti: TaskInstance, owner: Owner) -> Workload | None:
    """The workload of an ECS task that Airflow's own ECS executor has started, written as STARTED; None if it is not.

    That executor keeps the task's ARN where we keep the exec_id. From here on the task instance has an exec_id, set in
    the transaction that writes the row: neither happens without the other. The daemon observes the container by its
    ARN like one of ours, and has as long as for one of ours until it must run.
    """
    place = identity.place_of(ti.external_executor_id or "")
    if place is None or ti.state not in (TaskInstanceState.QUEUED, TaskInstanceState.RUNNING):
        return None
    region, cluster = place
    arn = str(ti.external_executor_id)
    made = queued_again(ti, owner)
    with savepoint(session) as connection:
        workload = replace(
            made,
            exec_id=identity.derived_exec_id(owner.deployment, ti.id, arn),
            phase=Phase.STARTED,
            attempt=1,
            intent_at=read_now(connection),
            shard=region,
            cluster=cluster,
            task_arn=arn,
            reason="it was started by the executor that was configured before",
        )
        shim.insert(connection, [workload])
    ti.external_executor_id = workload.exec_id
    return workload


def queued_again(ti: TaskInstance, owner: Owner) -> Workload:
    """The workload as it was when the task instance was queued."""
    workload = ExecuteTask.make(ti)
    return to_row(workload, deployment=owner.deployment, team=owner.team, owner=owner.job_id)


def _is_uuid(text: str | None) -> bool:
    try:
        uuid.UUID(text or "")
    except ValueError:
        return False
    return True
