"""ECS on a virtual clock: the operations, and what they do to clusters, definitions, tokens and tasks.

Pure: the time comes with every call, chance comes from the Random given, what must happen outside (start a process,
signal it) is returned as effects, and what EventBridge would tell as events. The same calls with the same seed give the
same answers. Time never runs backward here: an earlier `now` counts as the latest one seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reconciler.localecs import validate
from reconciler.localecs.errors import AwsError, client_error, invalid
from reconciler.localecs.events import Event, task_state_change
from reconciler.localecs.faults import Faults
from reconciler.localecs.registry import Cluster, Registry, Tags
from reconciler.localecs.task import STARTING, Effect
from reconciler.localecs.task_operations import Answer, Request, TaskOperations
from reconciler.localecs.throttle import GROUPS, Throttle

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random  # noqa: TID251 - the type; the instance is an argument

    from reconciler.localecs.settings import Settings
    from reconciler.localecs.task import Task


class EcsModel:
    """One account in one Region. See `call`, `advance` and `container_exited`; the rest is for tests and simulators.

    With `events` it remembers an event for each change of a task, until `take_events`.
    """

    def __init__(self, settings: Settings, rng: Random, *, events: bool = False) -> None:
        self.settings = settings
        self.faults = Faults()
        self.throttle = Throttle(settings.rates)
        self._registry = Registry(settings)
        self._tasks = TaskOperations(settings, rng, self._registry, self.throttle, self.faults)
        self._lifecycle = self._tasks.lifecycle
        self._events: list[Event] = []
        if events:
            self._lifecycle.changed = self._task_changed
        self._now = 0.0
        self._calls: dict[str, dict[str, int]] = {}
        self._operations: dict[str, Callable[[Request, float], Answer]] = {
            "RunTask": self._tasks.run_task,
            "StopTask": self._tasks.stop_task,
            "DescribeTasks": self._tasks.describe_tasks,
            "ListTasks": self._tasks.list_tasks,
            "CreateCluster": self._create_cluster,
            "DescribeClusters": self._describe_clusters,
            "RegisterTaskDefinition": self._register_task_definition,
            "DeregisterTaskDefinition": self._deregister_task_definition,
            "DescribeTaskDefinition": self._describe_task_definition,
            "TagResource": self._tag_resource,
            "ListTagsForResource": self._list_tags_for_resource,
        }

    # -- driving the model -----------------------------------------------------------------------------------------

    def call(self, operation: str, request: Request, now: float) -> Answer:
        """Answer one API call. Members have AWS's names, times are epoch seconds.

        Raises AwsError for what ECS would refuse, ResponseLost for an injected fault. Effects wait for `advance`.
        """
        now = self._move_to(now)
        count = self._calls.setdefault(operation, {"answered": 0, "throttled": 0, "failed": 0})
        try:
            answer = self._execute(operation, request, now)
        except AwsError as error:
            count["throttled" if error.code == "ThrottlingException" else "failed"] += 1
            raise
        except BaseException:
            count["failed"] += 1
            raise
        count["answered"] += 1
        return answer

    def advance(self, now: float) -> list[Effect]:
        """Move every task along up to `now` and hand over the effects since the last time."""
        self._move_to(now)
        effects, self._lifecycle.effects = self._lifecycle.effects, []
        return effects

    def take_events(self) -> list[Event]:
        """Hand over what EventBridge would tell since the last time, in order. Time does not move."""
        events, self._events = self._events, []
        return events

    def next_event_at(self) -> float | None:
        """When `advance` will next have something to do: now if effects wait, None if nothing will move by itself."""
        return self._now if self._lifecycle.effects else self._lifecycle.next_at()

    def container_exited(
        self, task_arn: str, container: str, exit_code: int, now: float, reason: str | None = None
    ) -> None:
        """A container's process ended. Ignored for a task that is forgotten or whose host is lost."""
        now = self._move_to(now)
        task = self._tasks.known.get(task_arn)
        if task is not None:
            self._lifecycle.container_exited(task, container, exit_code, reason, now)

    def lose_host(
        self,
        task_arn: str,
        now: float,
        stop_code: str = "InfrastructureHealth",
        reason: str = "The host of the task was lost.",
    ) -> None:
        """Take the machine away: the task is STOPPED at once and its containers never get an exit code."""
        now = self._move_to(now)
        self._lifecycle.lose_host(self._tasks.known[task_arn], stop_code, reason, now)

    def interrupt_spot(self, task_arn: str, now: float) -> None:
        """Reclaim a Spot task: SIGTERM, then SIGKILL after its stopTimeout; stopCode SpotInterruption."""
        now = self._move_to(now)
        self._lifecycle.stop(self._tasks.known[task_arn], "SpotInterruption", "Your Spot Task was interrupted.", now)

    def find_definition_of(self, task_id: str) -> tuple[str, Mapping[str, Any]] | None:
        """The ARN of a task by its id, and what its task definition says; None for a task that is not known."""
        for arn, task in self._tasks.known.items():
            if arn.endswith(f"/{task_id}"):
                definition = self._registry.find_definition(task.fixed["taskDefinitionArn"])
                return (arn, definition.described) if definition else None
        return None

    def stats(self) -> dict[str, Any]:
        """Counts since the start: calls by operation and by throttling group, tasks in all, now, and by clientToken."""
        return {
            "operations": {name: dict(count) for name, count in self._calls.items()},
            "groups": {
                group: {
                    "accepted": self.throttle.accepted.get(group, 0),
                    "refused": self.throttle.refused.get(group, 0),
                }
                for group in {*self.throttle.accepted, *self.throttle.refused}
            },
            "tasks": {
                "created": self._tasks.created,
                "live": self._tasks.live,
                "known": len(self._tasks.known),
            },
            "tasks_by_client_token": dict(self._tasks.tokens.tasks_created),
        }

    def _task_changed(self, task: Task, at: float) -> None:
        self._events.append(task_state_change(task, at))

    def _move_to(self, now: float) -> float:
        self._now = max(self._now, now)
        self._lifecycle.run(self._now)
        return self._now

    def _execute(self, operation: str, request: Request, now: float) -> Answer:
        if operation not in self._operations:
            raise AwsError("UnknownOperationException", f"The local ECS does not have the operation {operation}.")
        self.faults.check_call(operation, request, after_effect=False)
        self.throttle.take({GROUPS[operation]: 1}, now)
        answer = self._operations[operation](request, now)
        self.faults.check_call(operation, request, after_effect=True)
        return answer

    # -- clusters and task definitions -----------------------------------------------------------------------------

    def _create_cluster(self, request: Request, _now: float) -> Answer:
        return {"cluster": self._cluster_view(self._registry.create_cluster(request), tags=True)}

    def _describe_clusters(self, request: Request, _now: float) -> Answer:
        references = request.get("clusters") or ["default"]
        validate.at_most("clusters", references, 100)
        tags = "TAGS" in request.get("include", ())
        answer: Answer = {"clusters": [], "failures": []}
        for reference in references:
            cluster = self._registry.find_cluster(reference)
            if cluster is None:
                arn = reference if reference.startswith("arn:") else self._registry.arn("cluster", reference)
                answer["failures"].append({"arn": arn, "reason": "MISSING"})
            else:
                answer["clusters"].append(self._cluster_view(cluster, tags=tags))
        return answer

    def _cluster_view(self, cluster: Cluster, *, tags: bool) -> Answer:
        live = self._tasks.live_in(cluster)
        return {
            **cluster.described,
            "clusterArn": cluster.arn,
            "clusterName": cluster.name,
            "status": "ACTIVE",
            "registeredContainerInstancesCount": 0,
            "runningTasksCount": sum(task.status == "RUNNING" for task in live),
            "pendingTasksCount": sum(task.status in STARTING for task in live),
            "activeServicesCount": 0,
            "statistics": [],
            "tags": list(cluster.tags) if tags else [],
        }

    def _register_task_definition(self, request: Request, now: float) -> Answer:
        definition = self._registry.register(request, now)
        return {"taskDefinition": dict(definition.described), "tags": list(definition.tags)}

    def _deregister_task_definition(self, request: Request, now: float) -> Answer:
        return {"taskDefinition": dict(self._registry.deregister(request["taskDefinition"], now).described)}

    def _describe_task_definition(self, request: Request, _now: float) -> Answer:
        definition = self._registry.find_definition(request["taskDefinition"])
        if definition is None:
            raise client_error("Unable to describe task definition.")
        answer: Answer = {"taskDefinition": dict(definition.described)}
        return answer | ({"tags": list(definition.tags)} if "TAGS" in request.get("include", ()) else {})

    # -- tags ------------------------------------------------------------------------------------------------------

    def _tag_resource(self, request: Request, _now: float) -> Answer:
        tags = self._tags_of(request["resourceArn"])
        validate.tags(request["tags"])
        merged = {tag["key"]: tag.get("value", "") for tag in [*tags, *request["tags"]]}
        validate.at_most("tags", list(merged), 50)
        tags[:] = [{"key": key, "value": value} for key, value in merged.items()]
        return {}

    def _list_tags_for_resource(self, request: Request, _now: float) -> Answer:
        return {"tags": [dict(tag) for tag in self._tags_of(request["resourceArn"])]}

    def _tags_of(self, arn: str) -> Tags:
        """The tags of a task, cluster or task definition; a stopped task has none that can be reached."""
        task = self._tasks.known.get(arn)
        if task is not None:
            if task.stopped:
                raise invalid("The specified task is stopped. Specify a running task and try again.")
            return task.tags
        cluster = self._registry.find_cluster(arn) if ":cluster/" in arn else None
        definition = self._registry.find_definition(arn) if ":task-definition/" in arn else None
        found = cluster or definition
        if found is None:
            raise invalid("The specified resource could not be found.")
        return found.tags
