"""ECS between the real gateway and the model: what AWS and the network do to a call."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, ReadTimeoutError

from reconciler.core import identity
from reconciler.localecs import AwsError, EcsModel, Settings, SignalContainer, StartContainer
from tests.sim.container import Runner
from tests.virtual import EPOCH
from tests.world import CLUSTER, CONTAINER, DEPLOYMENT, FAMILY

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Mapping

    from reconciler.localecs.task import Task
    from tests.sim.airflow import Airflow
    from tests.sim.engine import Process, Sim
    from tests.sim.post import Post

FAR: Final = "far"
"""The cluster of another account, which nobody reaches with the first one's credentials, nor the other way round."""
SIDECAR: Final = "proxy"
FOREIGN: Final = ("somebody", "other/t1-1/1", f"{DEPLOYMENT}x/t1-1/1", f"{DEPLOYMENT}/t1-1", None)
"""Names of tasks that are not ours, however much they look like it."""

REFUSALS: Final = {
    "throttled": AwsError("ThrottlingException", "Rate exceeded"),
    "denied": AwsError("AccessDeniedException", "not authorized to perform ecs:RunTask"),
    "expired": AwsError("ExpiredTokenException", "The security token included in the request is expired"),
    "fails": AwsError("ServerException", "Service Unavailable", 500),
}
_TOO_LATE: Final = AwsError("InvalidSignatureException", "Signature expired", 403)


@dataclass
class Weather:
    """Shares of calls by what becomes of them; `all` for every operation, others by name."""

    shares: dict[str, dict[str, float]] = field(default_factory=dict)

    def mode(self, operation: str, chance: random.Random) -> str:
        pick: float | None = None
        for name in (operation, "all"):
            for mode, share in self.shares.get(name, {}).items():
                pick = chance.random() if pick is None else pick
                if pick < share:
                    return mode
                pick -= share
        return "works"


def family_of(queue: str) -> str:
    """The task definition of a queue with a profile of its own."""
    return f"{FAMILY}-{queue}"


class Aws:
    """One account. Its clock is `skew` seconds ahead of the true time."""

    def __init__(
        self,
        sim: Sim,
        settings: Settings,
        skew: float,
        chance: random.Random,
        *,
        events: bool = False,
        queues: Iterable[str] = (),
    ) -> None:
        self.sim, self.skew, self.chance = sim, skew, chance
        self.model = EcsModel(settings, chance, events=events)
        self.post: Post | None = None
        """Takes the events, where there is a queue of them."""
        self.weather = Weather()
        self.airflow: Airflow
        self.runners: dict[tuple[str, str], Runner] = {}
        self.signature_lives = 300.0
        self._timer = float("inf")
        self._shown: dict[str, list[Any]] = {}
        """All that DescribeTasks ever answered of a task."""
        definition = {
            "networkMode": "awsvpc",
            "requiresCompatibilities": ["FARGATE"],
            "cpu": "256",
            "memory": "512",
            "containerDefinitions": [
                {"name": SIDECAR, "image": "proxy", "essential": False},
                {"name": CONTAINER, "image": "airflow"},
            ],
        }
        for cluster in (CLUSTER, FAR):
            self.model.call("CreateCluster", {"clusterName": cluster}, self.now)
        for family in (FAMILY, *map(family_of, queues)):
            self.model.call("RegisterTaskDefinition", {**definition, "family": family}, self.now)
        lifecycle = self.model._tasks.lifecycle
        on_stopped, on_forgotten = lifecycle._on_stopped, lifecycle._on_forgotten

        def stopped(task: Task, at: float) -> None:
            on_stopped(task, at)
            code = next(c.exit_code for c in task.containers if c.name == CONTAINER)
            sim.note("stopped", arn=short(task.arn), code=code, stop_code=task.stop_code, ran="startedAt" in task.times)

        def forgotten(task: Task) -> None:
            on_forgotten(task)
            sim.note("forgotten", arn=short(task.arn))

        lifecycle._on_stopped, lifecycle._on_forgotten = stopped, forgotten

    @property
    def now(self) -> float:
        """Epoch seconds."""
        return EPOCH.timestamp() + self.sim.now + self.skew

    def call(self, operation: str, request: dict[str, Any], who: str, signed_at: float) -> Any:
        """A request arrives."""
        created = self.model._tasks.created
        result = ""
        try:
            if self.sim.now - signed_at > self.signature_lives:
                raise _TOO_LATE.with_traceback(None)
            answer = self.model.call(operation, request, self.now)
            if operation == "RunTask":
                result = "created" if self.model._tasks.created > created else "same"
        except AwsError as error:
            result = error.code
            raise
        else:
            return answer
        finally:
            if operation == "RunTask":
                tasks = answer["tasks"] if result in ("created", "same") else []
                failed = answer["failures"][0].get("reason", "?") if result == "same" and not tasks else None
                self._note_run(request, who, signed_at, failed or result, tasks)
            elif operation == "StopTask":
                self.sim.note("stop_task", who=who, arn=short(request["task"]), why=request["reason"], result=result)
            self.pump()

    def _note_run(self, request: dict[str, Any], who: str, signed_at: float, result: str, tasks: list[Any]) -> None:
        launched = identity.parse_started_by(request.get("startedBy"), DEPLOYMENT)
        self.sim.note(
            "run_task",
            who=who,
            id=launched[0] if launched else None,
            attempt=launched[1] if launched else None,
            token=request.get("clientToken", "")[:8],
            signed=round(signed_at, 3),
            result=result,
            arn=short(tasks[0]["taskArn"]) if tasks else None,
            spot=asks_for_spot(request) if "capacityProviderStrategy" in request else None,
        )

    def pump(self) -> None:
        """Carry out what the model wants done, and wake when it will want more."""
        effects = self.model.advance(self.now)
        if self.post:
            self.post.take(self.model.take_events(), self.now)
        for effect in effects:
            if isinstance(effect, StartContainer):
                runner = Runner(self, effect)
                self.runners[effect.task_arn, effect.container] = runner
            elif isinstance(effect, SignalContainer):
                self.runners[effect.task_arn, effect.container].signal(effect.signal)
        if effects:
            self.sim.happen()
        due = self.model.next_event_at()
        if due is not None:
            when = max(self.sim.now, due - EPOCH.timestamp() - self.skew)
            if when < self._timer or self._timer <= self.sim.now:
                self._timer = when
                self.sim.at(when, self._tick)

    def _tick(self) -> None:
        if self.sim.now >= self._timer:
            self._timer = float("inf")
            before = len(self.sim.trace)
            self.pump()
            if len(self.sim.trace) != before:
                self.sim.happen()

    def exited(self, arn: str, container: str, code: int) -> None:
        self.model.container_exited(arn, container, code, self.now)
        self.pump()
        self.sim.happen()

    def remember(self, tasks: list[Any], *, stale: bool) -> list[Any]:
        """Of each task what is known now, or anything that was known before."""
        answer = []
        for task in tasks:
            shown = self._shown.setdefault(task["taskArn"], [])
            if not shown or shown[-1]["version"] != task["version"]:
                shown.append(task)
            answer.append(self.chance.choice(shown) if stale else task)
        return answer

    def live(self) -> list[Task]:
        return [task for task in self.model._tasks.known.values() if not task.stopped]

    def start_foreign(self, started_by: str | None) -> None:
        """Somebody else's task in our cluster."""
        request: dict[str, Any] = {
            "cluster": CLUSTER,
            "taskDefinition": FAMILY,
            "launchType": "FARGATE",
            "networkConfiguration": {"awsvpcConfiguration": {"subnets": ["subnet-1"]}},
            "overrides": {"containerOverrides": [{"name": CONTAINER, "command": ["foreign"]}]},
        }
        if started_by is not None:
            request["startedBy"] = started_by
        try:
            answer = self.model.call("RunTask", request, self.now)
        except AwsError:
            return
        for task in answer["tasks"]:
            self.sim.note("foreign", arn=short(task["taskArn"]), name=started_by)
        self.pump()


def asks_for_spot(request: Mapping[str, Any]) -> bool:
    """Whether a RunTask request prefers Spot."""
    strategy = request.get("capacityProviderStrategy", ())
    return any(item["capacityProvider"] == "FARGATE_SPOT" for item in strategy)


def short(arn: str) -> str:
    """The last part of an ARN, cut for people."""
    return arn.rsplit("/", 1)[-1][:8]


class Client:
    """What the gateway needs of a boto3 client. Implements signing, sending, and losing answers."""

    def __init__(self, aws: Aws, process: Process, cluster: str = CLUSTER) -> None:
        self._aws, self._process, self._cluster = aws, process, cluster
        self._hooks: list[Callable[..., None]] = []
        self.meta = SimpleNamespace(
            events=SimpleNamespace(register_last=lambda _, hook: self._hooks.append(hook), unregister=lambda *_: None)
        )

    def close(self) -> None: ...

    def run_task(self, **request: Any) -> Any:
        return self._call("RunTask", request)

    def stop_task(self, **request: Any) -> Any:
        return self._call("StopTask", request)

    def describe_tasks(self, **request: Any) -> Any:
        return self._call("DescribeTasks", request)

    def list_tasks(self, **request: Any) -> Any:
        return self._call("ListTasks", request)

    def _call(self, operation: str, request: dict[str, Any]) -> Any:
        aws, process = self._aws, self._process
        if request["cluster"].rsplit("/", 1)[-1] != self._cluster:
            error = f"{operation} for the cluster {request['cluster']} with the credentials for {self._cluster}"
            aws.sim.note("unforeseen", who=process.name, error=error)
        process.seam(f"{operation}: signing")
        mode = aws.weather.mode(operation, aws.sim.chance)
        if mode == "unsigned":
            raise NoCredentialsError
        signed_at = aws.sim.now
        for hook in self._hooks:
            hook()
        process.seam(f"{operation}: on the wire")
        if mode == "unreachable":
            raise EndpointConnectionError(endpoint_url="model")
        if mode in REFUSALS:
            raise _boto(REFUSALS[mode], operation)
        if mode == "late":
            # The client gives up; the request arrives all the same, perhaps later than its signature allows.
            delay = aws.chance.random() * aws.signature_lives * 1.3
            aws.sim.at(aws.sim.now + delay, lambda: self._arrive_late(operation, request, signed_at))
        elif mode != "lost":
            try:
                answer = aws.call(operation, request, process.name, signed_at)
            except AwsError as error:
                process.seam(f"{operation}: refused")
                raise _boto(error, operation) from error
            process.seam(f"{operation}: answered")
            if operation == "DescribeTasks":
                answer["tasks"] = aws.remember(answer["tasks"], stale=mode == "stale")
            if mode in ("works", "stale"):
                return _with_times(answer)
            aws.sim.note("answer_lost", who=process.name, operation=operation)
        if mode == "fails_after":
            raise _boto(REFUSALS["fails"], operation)
        raise ReadTimeoutError(endpoint_url="model")

    def _arrive_late(self, operation: str, request: dict[str, Any], signed_at: float) -> None:
        with suppress(AwsError):  # nobody hears of it
            self._aws.call(operation, request, f"{self._process.name}, late", signed_at)


def _boto(error: AwsError, operation: str) -> ClientError:
    body: Any = {"Error": {"Code": error.code, "Message": error.message}, **error.extra}
    body["ResponseMetadata"] = {"HTTPStatusCode": error.status}
    return ClientError(body, operation)


def _with_times(answer: Any) -> Any:
    """boto3 gives datetimes where the wire has seconds."""
    if "tasks" in answer:
        answer["tasks"] = [
            {name: _time(value) if type(value) is float else value for name, value in task.items()}
            for task in answer["tasks"]
        ]
    return answer


@lru_cache(maxsize=1000)
def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
