"""What really happened, from three witnesses: our table, the local ECS, and Airflow's REST API."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select

from reconciler.core.identity import parse_started_by
from reconciler.demo.stack import CLUSTER, DEPLOYMENT
from reconciler.store.engine import make_engine
from reconciler.store.rows import LIGHT, read
from reconciler.store.schema import workloads

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mypy_boto3_ecs import ECSClient
    from mypy_boto3_ecs.type_defs import TaskTypeDef

    from reconciler.core.task import Workload
    from reconciler.demo.api import Instance
    from reconciler.demo.stack import Stack

__all__ = ["World", "ecs_tasks", "observe", "rows"]


@dataclass(frozen=True, slots=True)
class World:
    """One run of a DAG: its task instances, its queueings, and every ECS task that the cluster has ever had."""

    run_state: str
    instances: Sequence[Instance]
    rows: Sequence[Workload]
    """One for each time that Airflow queued a task instance, the first first."""
    tasks: Sequence[TaskTypeDef]

    def tasks_of(self, w: Workload) -> list[TaskTypeDef]:
        """The ECS tasks that were started for a queueing, by what they themselves say (`startedBy`)."""
        return [task for task in self.tasks if started_for(task) == w.exec_id]

    @property
    def settled(self) -> bool:
        """Nothing runs, and no outcome is left to tell."""
        told = all(w.terminal and w.acked_version >= w.version for w in self.rows)
        return told and all(task["lastStatus"] == "STOPPED" for task in self.tasks)


def started_for(task: TaskTypeDef) -> str | None:
    """The exec_id of an ECS task of the demo's deployment, None for one of somebody else."""
    launched = parse_started_by(task.get("startedBy"), DEPLOYMENT)
    return launched[0] if launched else None


def observe(stack: Stack, dag_id: str, run_id: str) -> World:
    """Ask all three."""
    with closing(stack.ecs()) as client:
        tasks = list(ecs_tasks(client))
    state, instances = stack.api.run_state(dag_id, run_id), stack.api.instances(dag_id, run_id)
    return World(state, instances, rows(stack, dag_id, run_id), tasks)


def rows(stack: Stack, dag_id: str, run_id: str) -> list[Workload]:
    """The queueings of a run, the first first."""
    c = workloads.c
    wanted = select(*LIGHT).where(c.dag_id == dag_id, c.run_id == run_id).order_by(c.created_at, c.exec_id)
    engine = make_engine(stack.database)
    try:
        with engine.connect() as connection:
            return read(connection, wanted)
    finally:
        engine.dispose()


def ecs_tasks(client: ECSClient) -> Iterator[TaskTypeDef]:
    """Every task that the cluster shows, running or stopped."""
    lister = client.get_paginator("list_tasks")
    for status in ("RUNNING", "STOPPED"):
        for page in lister.paginate(cluster=CLUSTER, desiredStatus=status, PaginationConfig={"PageSize": 100}):
            if page["taskArns"]:
                yield from client.describe_tasks(cluster=CLUSTER, tasks=page["taskArns"])["tasks"]
