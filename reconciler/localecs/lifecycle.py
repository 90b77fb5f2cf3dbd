"""How a task moves: by time, by its containers' exits, by being stopped; never because somebody looked.

    PROVISIONING > PENDING > ACTIVATING > RUNNING > DEACTIVATING > STOPPING > DEPROVISIONING > STOPPED > forgotten

A task that is stopped before RUNNING goes straight to DEPROVISIONING: nothing ran, so there is no startedAt and no
exitCode. A lost host takes a task to STOPPED from anywhere. Every move happens at the time it was due, however late
the model is asked, so that a slow poller sees the same timestamps as a fast one.
"""

from __future__ import annotations

import heapq
from itertools import count
from typing import TYPE_CHECKING

from reconciler.localecs.task import STARTING, Container, Effect, SignalContainer, StartContainer, Task

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random  # noqa: TID251 - the type; the instance is an argument

    from reconciler.localecs.settings import Settings

ESSENTIAL_EXITED = "Essential container in task exited"


class Lifecycle:
    """Moves tasks and collects the effects that somebody has to carry out.

    `stopped` is called when a task reaches STOPPED, `forgotten` when its retention has passed. `changed`, if it is set,
    is called for each version of a task, once all of that change can be seen.
    """

    def __init__(
        self,
        settings: Settings,
        rng: Random,
        stopped: Callable[[Task, float], None],
        forgotten: Callable[[Task], None],
    ) -> None:
        self._settings = settings
        self._rng = rng
        self._on_stopped = stopped
        self._on_forgotten = forgotten
        self._timers: list[tuple[float, int, Task]] = []  # an entry whose time is not the task's `due` is stale
        self._pushed = count()
        self.effects: list[Effect] = []
        self.changed: Callable[[Task, float], None] | None = None

    def next_at(self) -> float | None:
        """When the next task moves by itself."""
        while self._timers and self._timers[0][0] != self._timers[0][2].due:
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def run(self, now: float) -> None:
        """Make every move that is due by `now`, in order of time."""
        while (at := self.next_at()) is not None and at <= now:
            _, _, task = heapq.heappop(self._timers)
            task.due = None
            self._move(task, at)

    def launch(self, task: Task) -> None:
        """Take up a task that was just created."""
        task.times["createdAt"] = task.created_at
        task.desired_since = task.created_at
        self._tell(task, task.created_at)
        self._stay(task, task.created_at, self._settings.latencies.provisioning, starting=True)

    def stop(self, task: Task, stop_code: str, reason: str | None, now: float) -> None:
        """Want a task stopped. The first one to want it gives the stopCode and the reason."""
        if task.desired == "STOPPED":
            return
        task.desired, task.desired_since = "STOPPED", now
        task.stop_code, task.stopped_reason = stop_code, reason
        task.times["stoppingAt"] = now
        self._changed(task, now)
        self._stay(task, now, self._settings.latencies.notice)

    def container_exited(self, task: Task, name: str, exit_code: int, reason: str | None, now: float) -> None:
        """A container's process ended. News of a container that is not running (its host was lost) is too late."""
        container = task.container(name)
        if not container.alive:
            return
        container.status, container.exit_code, container.reason = "STOPPED", exit_code, reason
        container.kill_at = None
        if not _alive(task):
            task.times["executionStoppedAt"] = now
        self._changed(task, now)
        if container.essential:
            self.stop(task, "EssentialContainerExited", ESSENTIAL_EXITED, now)
        if task.status == "STOPPING":
            self._await_containers(task, now)

    def lose_host(self, task: Task, stop_code: str, reason: str, now: float) -> None:
        """The machine is gone: STOPPED at once, and no container ever gets an exit code."""
        if task.stopped:
            return
        for container in task.containers:
            if container.alive:
                self.effects.append(SignalContainer(task.arn, container.name, "SIGKILL"))
                container.status = "STOPPED"
                task.times["executionStoppedAt"] = now
        self.stop(task, stop_code, reason, now)
        self._stopped(task, now)

    def _move(self, task: Task, at: float) -> None:
        latencies = self._settings.latencies
        if task.status in STARTING and task.desired == "STOPPED":
            self._enter(task, "DEPROVISIONING", at, latencies.deprovisioning)
        elif task.status in STARTING and task.status == task.fails_at:
            if task.fails_with is not None:
                self._fail_start(task, task.fails_with, at)
        elif task.status == "PROVISIONING":
            task.show_containers = True
            if task.attachment:
                task.attachment["status"] = "ATTACHED"
            task.times["connectivityAt"] = at
            self._enter(task, "PENDING", at, latencies.pending, starting=True)
        elif task.status == "PENDING":
            task.times["pullStartedAt"] = at
            self._enter(task, "ACTIVATING", at, latencies.activating, starting=True)
        elif task.status == "ACTIVATING":
            self._start_containers(task, at)
        elif task.status == "RUNNING":
            self._enter(task, "DEACTIVATING", at, latencies.deactivating)
        elif task.status == "DEACTIVATING":
            self._terminate_containers(task, at)
        elif task.status == "STOPPING":
            self._kill_or_leave(task, at)
        elif task.status == "DEPROVISIONING":
            self._stopped(task, at)
        else:
            self._on_forgotten(task)

    def _fail_start(self, task: Task, reason: str, at: float) -> None:
        for container in task.containers:
            container.reason = reason
        self.stop(task, "TaskFailedToStart", reason, at)

    def _start_containers(self, task: Task, at: float) -> None:
        task.times["pullStoppedAt"] = at
        task.times["startedAt"] = at
        for container in task.containers:
            container.status = "RUNNING"
            self.effects.append(StartContainer(task.arn, container.name, container.command, container.environment))
        self._enter(task, "RUNNING", at, None)

    def _terminate_containers(self, task: Task, at: float) -> None:
        self._enter(task, "STOPPING", at, None)
        for container in task.containers:
            if container.alive:
                container.kill_at = at + container.stop_timeout
                self.effects.append(SignalContainer(task.arn, container.name, "SIGTERM"))
        self._await_containers(task, at)

    def _await_containers(self, task: Task, at: float) -> None:
        """In STOPPING: wait for the next SIGKILL that is due, or leave once no container is left."""
        if not _alive(task):
            self._stay(task, at, self._settings.latencies.stopping)
            return
        deadlines = [container.kill_at for container in task.containers if container.kill_at is not None]
        self._set_due(task, min(deadlines) if deadlines else None)

    def _kill_or_leave(self, task: Task, at: float) -> None:
        if not _alive(task):
            self._enter(task, "DEPROVISIONING", at, self._settings.latencies.deprovisioning)
            return
        for container in task.containers:
            if container.kill_at is not None and container.kill_at <= at:
                container.kill_at = None
                self.effects.append(SignalContainer(task.arn, container.name, "SIGKILL"))
        self._await_containers(task, at)

    def _stopped(self, task: Task, at: float) -> None:
        for container in task.containers:
            container.status = "STOPPED"
        if task.attachment:
            task.attachment["status"] = "DELETED"
        task.times["stoppedAt"] = at
        self._enter(task, "STOPPED", at, None)
        self._set_due(task, at + self._settings.stopped_retention)
        self._on_stopped(task, at)

    def _enter(self, task: Task, status: str, at: float, stay: float | None, *, starting: bool = False) -> None:
        task.status = status
        self._changed(task, at)
        if stay is None:
            task.due = None
        else:
            self._stay(task, at, stay, starting=starting)

    def _changed(self, task: Task, at: float) -> None:
        task.version += 1
        self._tell(task, at)

    def _tell(self, task: Task, at: float) -> None:
        if self.changed is not None:
            self.changed(task, at)

    def _stay(self, task: Task, since: float, seconds: float, *, starting: bool = False) -> None:
        jitter = self._settings.latencies.jitter
        if jitter:
            seconds *= self._rng.uniform(1 - jitter, 1 + jitter)
        self._set_due(task, since + seconds * (task.pace if starting else 1.0))

    def _set_due(self, task: Task, at: float | None) -> None:
        task.due = at
        if at is not None:
            heapq.heappush(self._timers, (at, next(self._pushed), task))


def _alive(task: Task) -> list[Container]:
    return [container for container in task.containers if container.alive]
