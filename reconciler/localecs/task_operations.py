"""RunTask, StopTask, DescribeTasks and ListTasks, and the tasks they work on."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from reconciler.localecs import launch, validate
from reconciler.localecs.errors import AwsError, invalid
from reconciler.localecs.lifecycle import Lifecycle
from reconciler.localecs.task import Task, short_view, view
from reconciler.localecs.tokens import Remembered, Tokens

if TYPE_CHECKING:
    from random import Random  # noqa: TID251 - the type; the instance is an argument

    from reconciler.localecs.faults import Faults
    from reconciler.localecs.registry import Cluster, Definition, Registry
    from reconciler.localecs.settings import Settings
    from reconciler.localecs.throttle import Throttle

# As Fargate words them in failures[].reason.
NO_VCPUS = "You've reached the limit on the number of vCPUs you can run concurrently"
NO_TASKS = "You've reached the limit on the number of tasks you can run concurrently"

Request = Mapping[str, Any]
Answer = dict[str, Any]


class TaskOperations:
    """The tasks that ECS still knows, by ARN and in the order of their creation, and what can be asked of them."""

    def __init__(self, settings: Settings, rng: Random, registry: Registry, throttle: Throttle, faults: Faults) -> None:
        self._settings = settings
        self._rng = rng
        self._registry = registry
        self._throttle = throttle
        self._faults = faults
        self.tokens = Tokens(settings)
        self.lifecycle = Lifecycle(settings, rng, self._task_stopped, self._task_forgotten)
        self.known: dict[str, Task] = {}
        self.created = 0
        self.live = 0
        self._live_vcpus = 0.0

    def live_in(self, cluster: Cluster) -> list[Task]:
        """The tasks of a cluster that are not STOPPED."""
        return [task for task in self.known.values() if task.cluster_arn == cluster.arn and not task.stopped]

    def run_task(self, request: Request, now: float) -> Answer:
        validate.run_task(request)
        cluster = self._registry.cluster(request.get("cluster"))
        definition = self._registry.runnable(request["taskDefinition"])
        strategy = launch.task_strategy(request, cluster)
        fargate = launch.on_fargate(request, strategy)
        validate.against_definition(request, definition.described, fargate=fargate)

        token = request.get("clientToken")
        if token is not None:
            known = self.tokens.find((cluster.arn, token), request, now)
            if known is not None:
                # A repeated call launches nothing, so it costs a call but no launch.
                self._throttle.take({"fargate-run-task": 1} if fargate else {}, now)
                return self._replay(known, now)

        count = request.get("count", 1)
        providers = [launch.pick_provider(strategy, self._rng) for _ in range(count)]
        if fargate:
            spot = providers.count("FARGATE_SPOT")
            launches = {"fargate-launches": count - spot, "fargate-spot-launches": spot}
            self._throttle.take({"fargate-run-task": 1} | {group: n for group, n in launches.items() if n}, now)

        tasks: list[Task] = []
        failures: list[dict[str, str]] = []
        for provider in providers:
            reason = self._no_room(request, definition, fargate=fargate)
            if reason is None:
                tasks.append(self._launch(request, cluster, definition, provider, fargate=fargate, now=now))
            else:
                failures.append({"reason": reason})
        if token is not None:
            arns = tuple(task.arn for task in tasks)
            self.tokens.store((cluster.arn, token), request, arns, tuple(failures), now)
        return {"tasks": [view(task, tags=True) for task in tasks], "failures": failures}

    def _no_room(self, request: Request, definition: Definition, *, fargate: bool) -> str | None:
        reason = self._faults.placement_failure(request)
        if reason is not None:
            return reason
        limit, quota = self._settings.max_running_tasks, self._settings.max_vcpus
        if limit is not None and self.live >= limit:
            return NO_TASKS
        needed = launch.vcpus(request, definition.described)
        if quota is not None and fargate and self._live_vcpus + needed > quota:
            return NO_VCPUS
        return None

    def _launch(
        self,
        request: Request,
        cluster: Cluster,
        definition: Definition,
        provider: str | None,
        *,
        fargate: bool,
        now: float,
    ) -> Task:
        self.created += 1
        task = launch.make_task(
            request,
            cluster,
            definition,
            provider,
            fargate=fargate,
            sequence=self.created,
            now=now,
            settings=self._settings,
            rng=self._rng,
        )
        rule = self._faults.start_failure(request)
        pulled, error = launch.pulls(definition.described)
        if not pulled:
            task.fails_at, task.fails_with = "PENDING", error
        if rule is not None:
            task.fails_at, task.fails_with = rule.status, rule.stopped_reason
        self.known[task.arn] = task
        self.live += 1
        self._live_vcpus += task.vcpus
        self.lifecycle.launch(task)
        return task

    def _replay(self, known: Remembered, now: float) -> Answer:
        tasks: list[Answer] = []
        for arn in known.arns:
            task = self.known.get(arn)
            if task is None:
                tasks.append({"taskArn": arn, "lastStatus": "STOPPED", "desiredStatus": "STOPPED"})
            else:
                tasks.append(short_view(task) if task.stopped else view(task, tags=True))
        return {"tasks": tasks, "failures": known.failures_at(now)}

    def stop_task(self, request: Request, now: float) -> Answer:
        cluster = self._registry.cluster(request.get("cluster"))
        task = self._task_in(cluster, request["task"])
        if task is None:
            raise invalid("The referenced task was not found.")
        task.tags.clear()  # "Any tags associated with the task will be deleted" (API reference, StopTask)
        self.lifecycle.stop(task, "UserInitiated", request.get("reason", "Task stopped by user"), now)
        return {"task": view(task, tags=True)}

    def describe_tasks(self, request: Request, now: float) -> Answer:
        cluster = self._registry.cluster(request.get("cluster"))
        validate.describe_tasks(request)
        tags = "TAGS" in request.get("include", ())
        tasks: list[Answer] = []
        failures: list[Answer] = []
        for reference in dict.fromkeys(request["tasks"]):
            task = self._task_in(cluster, reference)
            if task is None or not self._seen(task, self._settings.visibility_lag, now):
                failures.append({"arn": self._task_arn(cluster, reference), "reason": "MISSING"})
            else:
                tasks.append(view(task, tags=tags))
        return {"tasks": tasks, "failures": failures}

    def list_tasks(self, request: Request, now: float) -> Answer:
        validate.list_tasks(request)
        cluster = self._registry.cluster(request.get("cluster"))
        if "serviceName" in request:
            raise AwsError("ServiceNotFoundException", "Service not found.")
        after = _sequence_of(request["nextToken"]) if "nextToken" in request else 0
        size = min(request.get("maxResults", 100), self._settings.list_page_size)
        page: list[Task] = []
        for task in self.known.values():
            if task.sequence > after and task.cluster_arn == cluster.arn and self._listed(task, request, now):
                if len(page) == size:
                    return {"taskArns": [listed.arn for listed in page], "nextToken": _page_token(page[-1])}
                page.append(task)
        return {"taskArns": [task.arn for task in page]}

    def _listed(self, task: Task, request: Request, now: float) -> bool:
        lag = self._settings.list_lag
        # desiredStatus changes once, from RUNNING to STOPPED; the list hears of it later.
        desired = task.desired if now >= task.desired_since + lag else "RUNNING"
        return (
            desired == request.get("desiredStatus", "RUNNING")
            and request.get("startedBy", task.fixed.get("startedBy")) == task.fixed.get("startedBy")
            and request.get("family", task.family) == task.family
            and request.get("launchType", task.fixed["launchType"]) == task.fixed["launchType"]
            and "containerInstance" not in request
            and self._seen(task, lag, now)
        )

    def _seen(self, task: Task, lag: float, now: float) -> bool:
        return now >= task.created_at + lag and task.arn not in self._faults.hidden

    def _task_in(self, cluster: Cluster, reference: str) -> Task | None:
        task = self.known.get(self._task_arn(cluster, reference))
        return task if task is not None and task.cluster_arn == cluster.arn else None

    def _task_arn(self, cluster: Cluster, reference: str) -> str:
        return reference if reference.startswith("arn:") else self._registry.arn("task", f"{cluster.name}/{reference}")

    def _task_stopped(self, task: Task, at: float) -> None:
        self.live -= 1
        self._live_vcpus -= task.vcpus
        if task.token is not None:
            self.tokens.task_stopped(task.token, at)

    def _task_forgotten(self, task: Task) -> None:
        del self.known[task.arn]


def _page_token(last: Task) -> str:
    return base64.urlsafe_b64encode(f"after:{last.sequence}".encode()).decode()


def _sequence_of(token: str) -> int:
    try:
        word, _, sequence = base64.urlsafe_b64decode(token.encode()).decode().partition(":")
        if word == "after":
            return int(sequence)
    except (binascii.Error, ValueError):
        pass
    raise invalid("Invalid token.")
