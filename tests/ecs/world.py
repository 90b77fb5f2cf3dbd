"""A local ECS over HTTP, gateways to it, and workloads to launch."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from reconciler.core import decide, runtask
from reconciler.core.task import Workload

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconciler.ecs.gateway import Gateway
    from reconciler.ecs.ratelimit import Limiter
    from reconciler.localecs import LocalEcs

REGION = "us-east-1"
T0 = datetime(2026, 1, 1, tzinfo=UTC)
COMMAND = ["python", "-m", "airflow.sdk.execution_time.execute_workload", "--json-string", "{}"]
PROFILE = runtask.Profile(
    cluster="default",
    container_name="airflow",
    run_task={
        "taskDefinition": "airflow-task",
        "launchType": "FARGATE",
        "networkConfiguration": {"awsvpcConfiguration": {"subnets": ["subnet-1"]}},
    },
)


class MachineClock:
    """The real thing."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wait(self, seconds: float) -> None:
        threading.Event().wait(seconds)


class VirtualClock:
    """Time passes when somebody waits, or when a test says so."""

    def __init__(self) -> None:
        self.time = 1000.0

    def monotonic(self) -> float:
        return self.time

    def wait(self, seconds: float) -> None:
        self.time += seconds


class SteppedClock:
    """Time stands still until the test moves it; whoever waits really waits."""

    def __init__(self) -> None:
        self.time = 0.0
        self.changed = threading.Condition()
        self.waiting = 0
        """Threads for which a step counts."""

    def monotonic(self) -> float:
        with self.changed:
            return self.time

    def wait(self, seconds: float) -> None:
        with self.changed:
            until = self.time + seconds
            self.waiting += 1
            self.changed.wait_for(lambda: self.time >= until, timeout=20)
            self.waiting -= 1

    def step(self, seconds: float) -> None:
        with self.changed:
            self.time += seconds
            self.changed.notify_all()


def eventually(holds: Callable[[], bool]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, "the awaited state never came"
        threading.Event().wait(0.005)


def launching(exec_id: str = "w-1", attempt: int = 1, *, profile: runtask.Profile = PROFILE) -> Workload:
    """A workload whose intent was committed at T0."""
    pending = replace(Workload(exec_id=exec_id, deployment="test"), attempt=attempt - 1)
    params = runtask.plan(profile, exec_id, {})
    family = runtask.family_of(params["taskDefinition"])
    return decide.intended(pending, T0, profile=profile, family=family, params=params)


@dataclass
class World:
    """A local ECS, a gateway to it, and what the gateway says of its calls."""

    ecs: LocalEcs
    gateway: Gateway
    client: Any
    limiter: Limiter
    calls: list[tuple[str, str]] = field(default_factory=list)

    def run(self, workload: Workload | None = None) -> Any:
        return self.gateway.run(workload or launching(), COMMAND)

    @property
    def faults(self) -> Any:
        return self.ecs.model.faults

    def shown(self, arn: str | None = None) -> dict[str, Any]:
        """A task as ECS shows it: this one, or the only one there is."""
        with self.ecs.lock:
            call, now = self.ecs.model.call, self.ecs.now()
            arns = [arn] if arn else call("ListTasks", {}, now)["taskArns"]
            (task,) = call("DescribeTasks", {"tasks": arns}, now)["tasks"]
        return dict(task)

    def made(self) -> int:
        """How many tasks ECS has ever made."""
        return int(self.stats()["tasks"]["created"])

    def heard(self, operation: str) -> int:
        """How many calls of an operation reached ECS, however they ended."""
        return sum(self.stats()["operations"].get(operation, {}).values())

    def stats(self) -> dict[str, Any]:
        with self.ecs.lock:
            return self.ecs.model.stats()
