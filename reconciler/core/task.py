"""The two things the protocol relates: a `Workload` (a row: what Airflow wants and what we know) and an `EcsTask`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from reconciler.core.phase import IN_FLIGHT, TERMINAL, Desired, Phase, check_edge

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

__all__ = ["SPOT_STOP_CODES", "Container", "EcsTask", "Kind", "Snapshot", "Spec", "TaskKey", "Workload"]


SPOT_STOP_CODES: Final = frozenset({"SpotInterruption", "TerminationNotice"})
"""ECS's `stopCode` of a task whose Spot capacity was taken away. DescribeTasks documents the first; the example event
of AWS's page on Fargate capacity providers shows the second.
https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_Task.html
"""


class Kind(StrEnum):
    """What Airflow queued: a task instance, or a callback (a deadline's, for instance)."""

    TASK = "task"
    CALLBACK = "callback"


@dataclass(frozen=True, slots=True)
class TaskKey:
    """What a person calls a task instance. Empty strings for a callback."""

    dag_id: str = ""
    task_id: str = ""
    run_id: str = ""
    map_index: int = -1
    try_number: int = 0

    def __str__(self) -> str:
        index = f"[{self.map_index}]" if self.map_index >= 0 else ""
        return f"{self.dag_id}.{self.task_id}{index} {self.run_id} try {self.try_number}"


@dataclass(frozen=True, slots=True)
class Spec:
    """What Airflow asked for. Written once by the shim, never changed, and untrusted by the daemon."""

    workload: str
    """Airflow's workload as JSON, without its token."""
    executor_config: Mapping[str, Any] = field(default_factory=dict)
    """RunTask parameters from the DAG's author."""
    flaw: str | None = None
    """Why it can not be used, if it can not."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One queueing of a task instance: the row of `ecs_workload`. All times are the database's, in UTC."""

    # Identity and spec: the shim's.
    exec_id: str
    deployment: str
    kind: Kind = Kind.TASK
    ti_id: str | None = None
    """The task instance's UUID, or the callback's."""
    key: TaskKey = TaskKey()
    queue: str = "default"
    team: str | None = None
    priority: int = 0
    owner_job_id: int | None = None
    """The scheduler job that must hear of the outcome."""
    spec: Spec | None = None
    """None where a read has no need of it: it is by far the largest part of a row."""
    desired: Desired = Desired.RUN
    desired_reason: str | None = None
    """Who or what asked for STOP."""
    desired_at: datetime | None = None
    """When STOP was asked for."""
    refused: bool = False
    """The shim found the task instance still QUEUED after the container had exited: Airflow never admitted it."""
    acked_version: int = 0
    created_at: datetime | None = None

    # Status: the daemon's.
    phase: Phase = Phase.PENDING
    version: int = 1
    """Counts the writes. Every write names the version it read, and fails if the row has moved on."""
    attempt: int = 0
    """Names a launch: (exec_id, attempt) has at most one ECS task, ever."""
    start_failures: int = 0
    """How many failed starts count against max_run_task_attempts."""
    not_before: datetime | None = None
    intent_at: datetime | None = None
    profile: str = "default"
    shard: str = ""
    """The account and region of the launch: whose lease guards this row, and whose ECS knows its task."""
    cluster: str | None = None
    family: str | None = None
    params: Mapping[str, Any] | None = None
    """RunTask parameters as frozen by the intent, without identity and command. They hold no secret."""
    logs: Mapping[str, str] | None = None
    """Where CloudWatch has the container's output, as known at the intent. See `core.logs`."""
    cpu: int = 0
    """CPU units of the launch on Fargate, 1024 to a vCPU. 0: Fargate does not run it, or its size is not known."""
    task_arn: str | None = None
    ecs_version: int = 0
    last_status: str | None = None
    started_at: datetime | None = None
    stopped_at: datetime | None = None
    exit_code: int | None = None
    stop_code: str | None = None
    reason: str | None = None
    """Why the workload waits, failed or ended, for people."""
    updated_at: datetime | None = None

    @property
    def terminal(self) -> bool:
        return self.phase in TERMINAL

    @property
    def in_flight(self) -> bool:
        return self.phase in IN_FLIGHT

    @property
    def interrupted(self) -> bool:
        """Spot capacity was taken away from its task."""
        return self.stop_code in SPOT_STOP_CODES

    @property
    def outcome(self) -> str:
        """How a terminal workload ended, in one word for metrics: its phase, or that Spot took its container."""
        return "spot_interrupted" if self.interrupted and self.phase is Phase.EXITED else self.phase.lower()

    def moved(self, phase: Phase, at: datetime, **changes: Any) -> Workload:
        """A copy in `phase`, one version on. The only way a phase changes. Raises ValueError for a forbidden edge."""
        check_edge(self.phase, phase)
        return replace(self, phase=phase, version=self.version + 1, updated_at=at, **changes)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Rows, and the database's clock at the moment they were read. Ages are `now` less a row's own times."""

    now: datetime
    workloads: tuple[Workload, ...]


@dataclass(frozen=True, slots=True)
class Container:
    """Our own container in an ECS task. Sidecars never decide an outcome."""

    exit_code: int | None = None
    """None until it exits, and for ever if it never started. None is not 0."""
    reason: str | None = None
    runtime_id: str | None = None
    """Present once a container was created."""


@dataclass(frozen=True, slots=True)
class EcsTask:
    """An ECS task as DescribeTasks, RunTask or an event shows it. Times are AWS's."""

    arn: str
    last_status: str
    desired_status: str = "RUNNING"
    started_by: str | None = None
    version: int = 0
    created_at: datetime | None = None
    started_at: datetime | None = None
    stopped_at: datetime | None = None
    stop_code: str | None = None
    stopped_reason: str | None = None
    container: Container | None = None
    """None when ECS does not show it: right after RunTask on a capacity provider, or in a shortened answer."""

    @property
    def stopped(self) -> bool:
        return self.last_status in ("STOPPED", "DELETED")

    @property
    def never_started(self) -> bool:
        """Proof that no user code ran: ECS gave up, or Spot took its host, before the container existed.

        https://docs.aws.amazon.com/AmazonECS/latest/developerguide/stopped-task-error-codes.html
        A stop on request is no proof: the container may have run while the task was still ACTIVATING. Nor is an
        interruption by Spot if ECS does not show that our container was never made.
        """
        ours = self.container
        ran = ours is not None and (ours.exit_code is not None or ours.runtime_id is not None)
        gave_up = self.stop_code == "TaskFailedToStart" or (self.stop_code in SPOT_STOP_CODES and ours is not None)
        return self.stopped and gave_up and self.started_at is None and not ran

    @property
    def why_stopped(self) -> str:
        """ECS's reason and our container's, in one sentence for people."""
        parts = [self.stop_code, self.stopped_reason, self.container.reason if self.container else None]
        return ": ".join(dict.fromkeys(part for part in parts if part)) or "stopped"
