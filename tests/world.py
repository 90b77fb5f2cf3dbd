"""A universe for the daemon: real controllers, real SQL on SQLite, the real gateway, the ECS model, one virtual clock.

Nothing here waits for real: `World.run` moves time along, and with it containers, the database's clock and the daemon.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from reconciler.controllers.adopt import Adopt
from reconciler.controllers.cleanup import Cleanup
from reconciler.controllers.launch import Launch
from reconciler.controllers.listen import Listen
from reconciler.controllers.retry import Retry
from reconciler.controllers.sweep import Sweep
from reconciler.core import decide, runtask
from reconciler.core.errors import ReconcilerError
from reconciler.core.freshness import Freshness
from reconciler.core.gate import Gate
from reconciler.core.profiles import Profiles
from reconciler.core.spot import Fallbacks
from reconciler.core.task import Spec, TaskKey, Workload
from reconciler.ecs.events import EventQueue
from reconciler.ecs.gateway import Gateway
from reconciler.ecs.ratelimit import Limiter
from reconciler.localecs import AwsError, EcsModel, Settings, SignalContainer, SqsModel, StartContainer
from reconciler.store import shim
from reconciler.store.daemon import SqlStore
from tests.virtual import EPOCH, ModelClient, ModelQueueClient, VirtualClock, make_store_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sqlalchemy import Engine

    from reconciler.controllers import Controller
    from reconciler.core.answer import Answer
    from reconciler.core.identity import Launched
    from reconciler.seams import Lease

CLUSTER, FAMILY, CONTAINER, DEPLOYMENT = "airflow", "airflow-task", "airflow", "test"
OWNER = 1
EVENTS_QUEUE = "airflow-events"


class InlineCalls:
    """Implements `seams.Calls`: a call is made at once, its answer found at the next look."""

    def __init__(self, run: Callable[[Workload], Answer], size: int = 32) -> None:
        self._run, self._size = run, size
        self._answers: list[tuple[Workload, Answer]] = []

    def submit(self, workload: Workload) -> None:
        self._answers.append((workload, self._run(workload)))

    def collect(self) -> list[tuple[Workload, Answer]]:
        answers, self._answers = self._answers, []
        return answers

    def under_way(self) -> set[Launched]:
        return {(workload.exec_id, workload.attempt) for workload, _ in self._answers}

    def room(self) -> int:
        return self._size - len(self._answers)


class EchoDelivery:
    """A command that names its launch: a pure function of the intent, as the real one."""

    def command(self, workload: Workload) -> Sequence[str]:
        return ["run", workload.exec_id, str(workload.attempt)]


@dataclass
class Behaviour:
    """What containers do: run so long, then exit with this code."""

    seconds: float = 10.0
    exit_code: int = 0
    by_exec_id: dict[str, tuple[float, int]] = field(default_factory=dict)


class Replica:
    """One daemon process with its own memory. Several may look at the same world."""

    def __init__(self, world: World, holder: str) -> None:
        self.world, self.holder = world, holder
        self.answers: list[Answer] = []
        self.retried: list[str] = []
        self.orphans: list[str] = []
        self.gates = {"ecs": Gate(), "api_server": Gate()}
        self.fallbacks, self.freshness = Fallbacks(), Freshness()
        self.events: list[tuple[str, float | None]] = []
        clock, policy = world.clock, world.policy

        def written(old: Workload, new: Workload) -> None:
            self.fallbacks.moved(old, new, clock.monotonic())
            self.freshness.moved(old, new, clock.monotonic())

        store = SqlStore(world.engine, DEPLOYMENT, world.shard, on_written=written)
        self.gateway = Gateway(
            ModelClient(world.model, clock),  # type: ignore[arg-type] # the few methods that the gateway calls
            Limiter(clock, launch_rate=1000, launch_burst=1000),
            clock,
            deployment=DEPLOYMENT,
            now=store.now,
            resend_for=policy.resend_for,
            on_call=lambda *_: None,
        )
        delivery = EchoDelivery()
        self.calls = InlineCalls(lambda w: self.gateway.run(w, delivery.command(w)))
        self.launch = Launch(
            store,
            self.calls,
            delivery=delivery,
            clock=clock,
            profiles=world.profiles,
            shard=world.shard,
            policy=policy,
            ecs_gates={"default": self.gates["ecs"]},
            api_gate=self.gates["api_server"],
            fallbacks=self.fallbacks,
            max_running_tasks=world.max_running_tasks,
            on_answer=lambda _, answer: self.answers.append(answer),
            max_cpu=world.max_cpu,
            definition_of=world.definition,
        )
        self.sweep = Sweep(store, self.gateway, clock, policy=policy, sweep_interval=1.0, freshness=self.freshness)
        self.adopt = Adopt(
            store,
            self.gateway,
            clock,
            profiles=world.profiles,
            shard=world.shard,
            policy=policy,
            deployment=DEPLOYMENT,
            listing_interval=60.0,
            orphan_grace=600.0,
            on_orphan=self.orphans.append,
        )
        self.retry = Retry(store, clock, policy=policy, api_gate=self.gates["api_server"], on_retry=self.retried.append)
        self.cleanup = Cleanup(
            store, self.gateway, clock, profiles=world.profiles, policy=policy, retention=timedelta(days=2)
        )
        self.controllers: list[Controller] = [self.launch, self.sweep, self.adopt, self.retry, self.cleanup]
        if world.events:
            queue = EventQueue(
                ModelQueueClient(world.sqs, clock),  # type: ignore[arg-type] # the few methods that are called
                world.sqs.url(EVENTS_QUEUE),
                clock,
                on_call=lambda *_: None,
                calls=1,
            )
            self.listen = Listen(
                store,
                queue,
                clock,
                freshness=self.freshness,
                deployment=DEPLOYMENT,
                shard=world.shard,
                on_event=lambda result, lag: self.events.append((result, lag)),
            )
            # It comes round more often than the others.
            self.controllers[:0] = [self.listen] * 5
        self.errors: list[ReconcilerError] = []

    def step(self) -> None:
        """One pass of each controller, if this replica leads. Errors are what the manager would back off for."""
        lease = self.world.store.hold(
            f"{DEPLOYMENT}/{self.world.shard or 'region'}", self.holder, timedelta(seconds=15)
        )
        if lease is None:
            return
        for controller in self.controllers:
            try:
                controller.reconcile(lease)
            except ReconcilerError as error:
                self.errors.append(error)

    def close(self) -> None:
        self.gateway.close()


class World:
    """Everything outside the daemon, and the daemons in it."""

    def __init__(
        self,
        settings: Settings | None = None,
        policy: decide.Policy | None = None,
        max_running_tasks: int = 500,
        seed: int = 0,
        profiles: Sequence[runtask.Profile] = (),
        *,
        max_cpu: int | None = None,
        engine: Engine | None = None,
        shard: str = "",
        among: Profiles | None = None,
        beside: Sequence[World] = (),
        events: bool = False,
    ) -> None:
        """One account and region. With `shard` it is one of several, in a table and a time shared with `beside`.

        With `events` there is a queue that gets them, `sqs`, and the daemon listens.
        With an `engine` of its own the table is there, and only the database's clock is not virtual.
        """
        self.clock: VirtualClock = beside[0].clock if beside else VirtualClock()
        self.engine: Engine = beside[0].engine if beside else engine or make_store_engine(self.clock)
        self.shard = shard
        self.store = SqlStore(self.engine, DEPLOYMENT, shard)
        self.most_at_once = 0
        self.policy = policy or decide.Policy()
        self.max_running_tasks, self.max_cpu = max_running_tasks, max_cpu
        self.profile = runtask.Profile(
            cluster=CLUSTER,
            container_name=CONTAINER,
            run_task={
                "taskDefinition": FAMILY,
                "launchType": "FARGATE",
                "networkConfiguration": {"awsvpcConfiguration": {"subnets": ["subnet-1"]}},
            },
        )
        self.profiles: Profiles = among or Profiles(self.profile, {profile.name: profile for profile in profiles})
        settings = settings or Settings.unthrottled()
        self.events = events
        self.model = EcsModel(settings, random.Random(seed), events=events)
        self.sqs = SqsModel(settings, random.Random(seed))
        self.sqs.call("CreateQueue", {"QueueName": EVENTS_QUEUE}, self.ecs_now)
        for operation, request in (
            ("CreateCluster", {"clusterName": CLUSTER}),
            (
                "RegisterTaskDefinition",
                {
                    "family": FAMILY,
                    "networkMode": "awsvpc",
                    "requiresCompatibilities": ["FARGATE"],
                    "cpu": "256",
                    "memory": "512",
                    "containerDefinitions": [{"name": CONTAINER, "image": "airflow"}],
                },
            ),
        ):
            self.model.call(operation, request, self.ecs_now)
        self.behaviour = Behaviour()
        self.started: list[tuple[str, int, str]] = []
        """Every container that ever ran: (exec_id, attempt, task ARN)."""
        self._exits: list[tuple[float, str, str, int]] = []
        self.replica = Replica(self, "one")

    def send(self, body: str) -> None:
        """Put a message of whatever kind into the queue."""
        request = {"QueueUrl": self.sqs.url(EVENTS_QUEUE), "MessageBody": body}
        self.sqs.call("SendMessage", request, self.ecs_now)

    def waiting(self) -> int:
        """Messages in the queue, received or not."""
        counts = self.sqs.stats()["queues"][EVENTS_QUEUE]
        return int(counts["visible"] + counts["in_flight"] + counts["delayed"])

    @property
    def ecs_now(self) -> float:
        return EPOCH.timestamp() + self.clock.now

    def queue(self, *exec_ids: str, **changes: Any) -> None:
        """What the shim writes when Airflow queues task instances."""
        rows = [
            replace(
                Workload(
                    exec_id=exec_id,
                    deployment=DEPLOYMENT,
                    ti_id=f"ti-{exec_id}",
                    key=TaskKey("dag", exec_id, "run", -1, 1),
                    owner_job_id=OWNER,
                    spec=Spec("{}"),
                ),
                **changes,
            )
            for exec_id in exec_ids
        ]
        with self.engine.begin() as conn:
            shim.insert(conn, rows)

    def row(self, exec_id: str) -> Workload:
        (found,) = self.store.find([exec_id]).workloads
        return found

    def tasks(self, exec_id: str | None = None) -> list[dict[str, Any]]:
        """All ECS tasks that the model still knows, of one workload or of all."""
        known = [
            arn
            for status in ("RUNNING", "STOPPED")
            for arn in self._answer("ListTasks", desiredStatus=status, family=FAMILY)["taskArns"]
        ]
        shown = self._answer("DescribeTasks", tasks=sorted(set(known)))["tasks"] if known else []
        return [task for task in shown if exec_id is None or task.get("startedBy", "").split("/")[1:2] == [exec_id]]

    def live(self, exec_id: str | None = None) -> list[dict[str, Any]]:
        return [task for task in self.tasks(exec_id) if task["lastStatus"] != "STOPPED"]

    def start_foreign(self, started_by: str, overrides: Mapping[str, Any] | None = None) -> str:
        """Somebody else starts a task in our cluster. Returns its ARN."""
        command = {"containerOverrides": [{"name": CONTAINER, "command": ["x", "foreign", "1"]}]}
        network = {"awsvpcConfiguration": {"subnets": ["subnet-1"]}}
        request = {
            "cluster": CLUSTER,
            "taskDefinition": FAMILY,
            "launchType": "FARGATE",
            "startedBy": started_by,
            "networkConfiguration": network,
            "overrides": overrides or command,
        }
        arn: str = self.model.call("RunTask", request, self.ecs_now)["tasks"][0]["taskArn"]
        return arn

    def definition(self, name: str) -> Any:
        """What ECS shows of a task definition."""
        try:
            return self.model.call("DescribeTaskDefinition", {"taskDefinition": name}, self.ecs_now)["taskDefinition"]
        except AwsError:
            return None

    def _answer(self, operation: str, **request: Any) -> Any:
        return self.model.call(operation, {"cluster": CLUSTER, **request}, self.ecs_now)

    def run(self, seconds: float, step: float = 1.0, *, daemon: bool = True) -> None:
        """Let so much time pass, with a pass of the daemon every `step` seconds."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now = min(end, self.clock.now + step)
            self._containers()
            if daemon:
                self.replica.step()
                self._containers()

    def turn(self) -> None:
        """One pass of the daemon, and what containers do, at this moment."""
        self._containers()
        self.replica.step()
        self._containers()
        self.most_at_once = max(self.most_at_once, sum(not task.stopped for task in self.model._tasks.known.values()))

    def run_until(self, condition: Callable[[], bool], within: float = 3600.0, step: float = 1.0) -> None:
        """Let time pass until something holds; fails if it does not within so many virtual seconds."""
        end = self.clock.now + within
        while not condition():
            assert self.clock.now < end, f"not within {within} s: {[self._show(w) for w in self._all()]}"
            self.run(step, step)

    def lease(self) -> Lease:
        """The lease, taken in the replica's name."""
        lease = self.store.hold(f"{DEPLOYMENT}/region", self.replica.holder, timedelta(seconds=15))
        assert lease is not None
        return lease

    def restart(self, holder: str = "two") -> None:
        """The daemon dies, its lease runs out, and another takes over with an empty memory."""
        self.replica.close()
        self.run(20, daemon=False)
        self.replica = Replica(self, holder)

    def close(self) -> None:
        self.replica.close()
        self.engine.dispose()

    def _all(self) -> list[Workload]:
        with self.engine.connect() as conn:
            ids = [row[0] for row in conn.exec_driver_sql("SELECT exec_id FROM ecs_workload")]
        return list(self.store.find(ids).workloads)

    @staticmethod
    def _show(w: Workload) -> str:
        return f"{w.exec_id} {w.phase} attempt {w.attempt}: {w.reason}"

    def _containers(self) -> None:
        """Start, stop and end containers as ECS and their behaviour say."""
        while True:
            for effect in self.model.advance(self.ecs_now):
                if isinstance(effect, StartContainer):
                    _, exec_id, attempt = effect.command
                    self.started.append((exec_id, int(attempt), effect.task_arn))
                    seconds, code = self.behaviour.by_exec_id.get(
                        exec_id, (self.behaviour.seconds, self.behaviour.exit_code)
                    )
                    self._exits.append((self.clock.now + seconds, effect.task_arn, effect.container, code))
                elif isinstance(effect, SignalContainer):
                    self._exits.append((self.clock.now, effect.task_arn, effect.container, 143))
            for event in self.model.take_events():
                self.sqs.deliver(EVENTS_QUEUE, event, self.ecs_now)
            due = [leaving for leaving in self._exits if leaving[0] <= self.clock.now]
            if not due:
                return
            self._exits = [leaving for leaving in self._exits if leaving[0] > self.clock.now]
            for _, arn, container, code in due:
                self.model.container_exited(arn, container, code, self.ecs_now)
