"""The local ECS, with real processes for containers, which tells the history of every task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from reconciler.core import identity
from reconciler.localecs import AwsError, Latencies, LocalEcs, Settings
from tests.chaos import container
from tests.chaos.history import short

if TYPE_CHECKING:
    from pathlib import Path

    from reconciler.localecs.task import Task
    from tests.chaos.history import History

CLUSTER: Final = "default"
CONTAINER: Final = "airflow"
FAMILY: Final = "chaos-task"
DEPLOYMENT: Final = "chaos"


class ChaosEcs(LocalEcs):
    """A cluster in which tasks start in half a second."""

    def __init__(self, history: History, folder: Path, seed: int) -> None:
        latencies = Latencies(provisioning=0.2, pending=0.1, activating=0.2, jitter=0.5)
        super().__init__(
            settings=Settings(latencies=latencies, visibility_lag=0.3, list_lag=0.3),
            directory=folder / "containers",
            task_definition=False,
            stop_grace=0.5,
            seed=seed,
        )
        self._history = history
        container.install(folder / "bin")
        self.call(
            "RegisterTaskDefinition",
            {
                "family": FAMILY,
                "networkMode": "awsvpc",
                "requiresCompatibilities": ["FARGATE"],
                "cpu": "256",
                "memory": "512",
                "containerDefinitions": [
                    {
                        "name": CONTAINER,
                        "image": "chaos",
                        "environment": [{"name": "PATH", "value": str(folder / "bin")}],
                    }
                ],
            },
        )
        lifecycle = self.model._tasks.lifecycle
        on_stopped = lifecycle._on_stopped

        def stopped(task: Task, at: float) -> None:
            on_stopped(task, at)
            (code,) = (c.exit_code for c in task.containers)
            ran = "startedAt" in task.times
            history.note("stopped", arn=short(task.arn), code=code, stop_code=task.stop_code, ran=ran)

        lifecycle._on_stopped = stopped

    def call(self, operation: str, request: Any) -> dict[str, Any]:
        """Under the lock, so that the history has effects in their order."""
        if operation not in ("RunTask", "StopTask"):
            return super().call(operation, request)
        with self.lock:
            created, result = self.model._tasks.created, "?"
            answer: dict[str, Any] = {}
            try:
                answer = super().call(operation, request)
                result = "created" if self.model._tasks.created > created else "same"
            except AwsError as error:
                result = error.code
                raise
            finally:
                self._tell(operation, request, answer, result)
            return answer

    def _tell(self, operation: str, request: Any, answer: dict[str, Any], result: str) -> None:
        if operation == "StopTask":
            arn, why = short(request["task"]), request.get("reason")
            self._history.note("stop_task", who="daemon", arn=arn, why=why, result=result)
            return
        tasks = answer.get("tasks") or [{}]
        arn = tasks[0].get("taskArn")
        launched = identity.parse_started_by(request.get("startedBy"), DEPLOYMENT)
        if launched is None:
            self._history.note("foreign", arn=short(arn or ""), name=request.get("startedBy"))
            return
        self._history.note(
            "run_task",
            who="daemon",
            id=launched[0],
            attempt=launched[1],
            token=request.get("clientToken", "")[:8],
            signed=float("inf"),  # by its arrival, which is stricter: the two differ by what the network did
            result=result,
            arn=arn and short(arn),
        )

    def start_foreign(self, started_by: str) -> None:
        """Somebody else's task in our cluster, which must be left alone."""
        request = {
            "cluster": CLUSTER,
            "taskDefinition": FAMILY,
            "launchType": "FARGATE",
            "startedBy": started_by,
            "networkConfiguration": {"awsvpcConfiguration": {"subnets": ["subnet-1"]}},
            "overrides": {"containerOverrides": [{"name": CONTAINER, "command": ["/bin/sleep", "3600"]}]},
        }
        self.call("RunTask", request)

    def live(self) -> list[tuple[str, str | None]]:
        """Tasks that are not STOPPED: ARN and startedBy."""
        with self.lock:
            tasks = [task for task in self.model._tasks.known.values() if not task.stopped]
            return [(task.arn, task.fixed.get("startedBy")) for task in tasks]
