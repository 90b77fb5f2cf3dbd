"""Taking over the task instances of a scheduler that died."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from airflow.executors.workloads import ExecuteTask
from airflow.utils.state import TaskInstanceState

from reconciler.airflow.enqueue import savepoint
from reconciler.airflow.upkeep import open_rows
from reconciler.airflow.workloads import to_row
from reconciler.store import shim

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy.orm import Session

    from reconciler.airflow.delivery import Owner
    from reconciler.airflow.enqueue import Enqueue
    from reconciler.core.task import Workload

__all__ = ["adopt", "queued_again", "take_over"]


def take_over(session: Session, tis: Sequence[TaskInstance], owner: Owner) -> tuple[set[str], Sequence[Workload]]:
    """Own the workloads of these task instances, in the transaction that holds their locks.

    Returns the exec_ids that exist, and all open workloads of the owner: its bookkeeping from now on.
    """
    exec_ids = [ti.external_executor_id for ti in tis if ti.external_executor_id]
    with savepoint(session) as connection:
        owned = shim.own(connection, exec_ids, owner.job_id)
        return owned, list(open_rows(connection, owner).values())


def adopt(session: Session, ti: TaskInstance, owner: Owner, enqueue: Enqueue) -> bool:
    """Whether a task instance without a workload can be adopted all the same. If not, Airflow resets it."""
    if ti.state == TaskInstanceState.QUEUED and _is_uuid(ti.external_executor_id):
        # Its scheduler died after it had committed QUEUED and before it could write the row.
        enqueue.add(session, queued_again(ti, owner))
        return True
    # It runs somewhere else, under the executor that was configured before ours, perhaps. As long as it has a heartbeat
    # it needs none of us: it tells Airflow its own outcome, and Airflow fails it if it falls silent.
    return bool(ti.state == TaskInstanceState.RUNNING and ti.last_heartbeat_at)


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
