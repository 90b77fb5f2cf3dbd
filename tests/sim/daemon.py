"""A daemon replica: the real manager, elector, controllers, gateway, limiter and gates, in one process."""

from __future__ import annotations

import sys
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

import structlog
from greenlet import getcurrent  # type: ignore[import-untyped] # it has no types

from reconciler import manager as manager_module
from reconciler.controllers.adopt import Adopt
from reconciler.controllers.cleanup import Cleanup
from reconciler.controllers.launch import Launch
from reconciler.controllers.listen import Listen
from reconciler.controllers.retry import Retry
from reconciler.controllers.sweep import Sweep
from reconciler.core import decide, freshness, runtask
from reconciler.core.answer import Answer, Unknown
from reconciler.core.errors import StoreUnavailable
from reconciler.core.gate import Gate
from reconciler.core.profiles import Profiles
from reconciler.core.spot import Fallbacks
from reconciler.ecs.events import EventQueue
from reconciler.ecs.gateway import Gateway
from reconciler.ecs.ratelimit import Limiter
from reconciler.lease import Crowd, Elector
from reconciler.manager import Manager
from reconciler.seams import shard_lease
from reconciler.store.daemon import SqlStore
from tests.sim.airflow import valid_for
from tests.sim.aws import FAR, Client, family_of
from tests.sim.database import StorePort
from tests.sim.post import QUEUE, QueueClient
from tests.virtual import EPOCH
from tests.world import CLUSTER, CONTAINER, DEPLOYMENT, FAMILY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from reconciler.controllers import Controller
    from reconciler.core.breaker import Breaker
    from reconciler.core.identity import Launched
    from reconciler.core.task import Workload
    from reconciler.seams import Lease
    from tests.sim.aws import Aws
    from tests.sim.database import Database
    from tests.sim.engine import Process, Sim

PROFILE: Final = runtask.Profile(
    cluster=CLUSTER,
    container_name=CONTAINER,
    run_task={
        "taskDefinition": FAMILY,
        "launchType": "FARGATE",
        "networkConfiguration": {"awsvpcConfiguration": {"subnets": ["subnet-1"]}},
    },
)
SPOT: Final = ({"capacityProvider": "FARGATE_SPOT", "weight": 1}, {"capacityProvider": "FARGATE", "weight": 0})
SECRET: Final = "eyJsecret"
"""Stands for the token that only the container's command may hold."""


POLICY = decide.Policy()
FRESHNESS: Final = ("TOLD_WITHIN", "FIRST_WITHIN", "SILENT_AFTER", "CALM")


@dataclass(frozen=True)
class Options:
    """What an operator may set, and how fast this replica's clock runs."""

    max_running_tasks: int
    lease_seconds: float
    listing_interval: float
    policy: decide.Policy
    retention: float
    orphan_grace: float = 600.0
    queues: tuple[tuple[str, int, str], ...] = ()
    spot_fallback_after: int = 0

    @property
    def profiles(self) -> Profiles:
        """Those of the queues, beside the default one."""
        default = PROFILE
        if self.spot_fallback_after:
            common = {name: value for name, value in PROFILE.run_task.items() if name != "launchType"}
            request = {**common, "capacityProviderStrategy": SPOT}
            default = replace(PROFILE, run_task=request, spot_fallback_after=self.spot_fallback_after)
        # Each with a task definition of its own, so that there are several listings.
        named = {
            name: replace(
                default,
                name=name,
                max_running_tasks=share,
                region=shard,
                cluster=FAR if shard else CLUSTER,
                run_task={**default.run_task, "taskDefinition": family_of(name)},
            )
            for name, share, shard in self.queues
        }
        return Profiles(default, named)


class Delivery:
    """A pure function of the intent, like the real one; the time in it makes a changed intent a changed request."""

    def command(self, workload: Workload) -> Sequence[str]:
        assert workload.intent_at is not None
        intent = (workload.intent_at - EPOCH).total_seconds()
        valid = valid_for(intent, PROFILE.start_timeout.total_seconds())
        token = f"{SECRET}.{workload.exec_id}.{workload.attempt}.{workload.intent_at}"
        named = ["run", workload.exec_id, str(workload.attempt), workload.ti_id or "", workload.kind.value]
        return [*named, *map(str, valid), token]


class Monotonic:
    """The replica's clock: not quite as fast as the true time, and begun at some other moment."""

    def __init__(self, process: Process, drift: float) -> None:
        self._process, self._rate = process, 1.0 + drift
        self._offset = 1000.0 * process.sim.chance.random()
        self.stopped = False

    def monotonic(self) -> float:
        return self._offset + self._process.sim.now * self._rate

    def wait(self, seconds: float) -> None:
        self._process.pause(seconds)


class Paced(Monotonic):
    """The same for the manager's loops, which look less often while nothing happens."""

    def __init__(self, clock: Monotonic, lease_interval: float) -> None:
        self._clock, self._lease_interval = clock, lease_interval
        self._process = clock._process

    def monotonic(self) -> float:
        return self._clock.monotonic()

    @property
    def stopped(self) -> bool:  # type: ignore[override] # the inner clock's
        return self._clock.stopped

    def wait(self, seconds: float) -> None:
        if self._clock.stopped:
            return
        if self._process.sim.healed and seconds == self._lease_interval:
            # In a healed world nobody keeps a leader from its lease. Until then a late renewal is one more trouble.
            self._process.pause(seconds)
        else:
            self._process.doze(seconds)


class Calls:
    """Implements `seams.Calls`: each RunTask call in a fiber of its own."""

    def __init__(self, process: Process, run: Callable[[Workload], Answer], size: int = 8) -> None:
        self._process, self._run, self._size = process, run, size
        self._under_way: set[Launched] = set()
        self._answers: list[tuple[Workload, Answer]] = []

    def submit(self, workload: Workload) -> None:
        self._under_way.add((workload.exec_id, workload.attempt))
        known = {"id": workload.exec_id, "attempt": workload.attempt, "version": workload.version}
        self._process.sim.note("submit", who=self._process.name, **known)

        def call() -> None:
            try:
                answer = self._run(workload)
            except Exception as error:  # noqa: BLE001 - as the real pool does
                answer = Unknown(f"{type(error).__name__}: {error}")
            self._answers.append((workload, answer))
            self._process.sim.happen()

        self._process.spawn(call)

    def collect(self) -> list[tuple[Workload, Answer]]:
        answers, self._answers = self._answers, []
        self._under_way -= {(workload.exec_id, workload.attempt) for workload, _ in answers}
        return answers

    def under_way(self) -> set[Launched]:
        return set(self._under_way)

    def room(self) -> int:
        return self._size - len(self._under_way)


class Observer:
    """Hears what the manager does, and tells the trace what can not be seen from outside: breakers and gates."""

    def __init__(self, sim: Sim, who: str) -> None:
        self._sim, self._who = sim, who
        self._held: set[tuple[str, str]] = set()
        self.breakers: Mapping[str, Breaker]
        self.gates: dict[str, Gate]
        self.freshness: freshness.Freshness

    def passed(self, controller: str, result: str, seconds: float) -> None:
        held = {("breaker", name) for name, breaker in self.breakers.items() if breaker.tripped}
        held |= {("relied_on", "events")} if self.freshness.reason is None else set()
        held |= {("gate", name) for name, gate in self.gates.items() if gate.reason}
        for kind, which in sorted(held - self._held):
            self._sim.note(kind, who=self._who, which=which)
        if ("relied_on", "events") in self._held - held:
            self._sim.note("not_relied_on", who=self._who, why=self.freshness.reason)
        self._held = held

    def leading(self, epoch: int | None) -> None:
        if epoch is not None:
            self._sim.note("leads", who=self._who, epoch=epoch)
        self._sim.happen()


class Shard:
    """One account and region in one life of a daemon."""

    def __init__(self, replica: Replica, name: str, store: Any, aws: Aws, options: Options) -> None:
        sim, process, clock = replica.sim, replica.process, replica.clock
        self._sim, self._process = sim, process
        profiles = options.profiles
        gateway = Gateway(
            Client(aws, process, FAR if name else CLUSTER),  # type: ignore[arg-type] # what the gateway calls
            Limiter(clock, launch_rate=18, launch_burst=90),
            clock,
            deployment=DEPLOYMENT,
            now=store.now,
            resend_for=options.policy.resend_for,
            on_call=lambda *_: None,
        )
        delivery, self.fallbacks, self.freshness = Delivery(), Fallbacks(), freshness.Freshness()
        self.calls = Calls(process, lambda w: gateway.run(w, delivery.command(w)))
        gates = {"ecs": Gate(), "api_server": Gate()}
        note = sim.note
        self.launch = Launch(
            store,
            self.calls,
            delivery=delivery,
            clock=clock,
            profiles=profiles,
            shard=name,
            policy=options.policy,
            ecs_gates={"default": gates["ecs"]},
            api_gate=gates["api_server"],
            fallbacks=self.fallbacks,
            max_running_tasks=profiles.limits(options.max_running_tasks)[name],
            on_answer=lambda w, answer: note(
                "answer",
                who=process.name,
                id=w.exec_id,
                attempt=w.attempt,
                answer=type(answer).__name__,
                why=getattr(answer, "reason", ""),
            ),
        )
        self.sweep = Sweep(store, gateway, clock, policy=options.policy, sweep_interval=1.0, freshness=self.freshness)
        self.adopt = Adopt(
            store,
            gateway,
            clock,
            profiles=profiles,
            shard=name,
            policy=options.policy,
            deployment=DEPLOYMENT,
            listing_interval=options.listing_interval,
            orphan_grace=options.orphan_grace,
            on_orphan=lambda what: note("orphan", who=process.name, what=what),
        )
        retry = Retry(
            store,
            clock,
            policy=options.policy,
            api_gate=gates["api_server"],
            on_retry=lambda what: note("retry", who=process.name, what=what),
        )
        cleanup = Cleanup(
            store,
            gateway,
            clock,
            profiles=profiles,
            policy=options.policy,
            retention=timedelta(seconds=options.retention),
        )
        lease, ttl = shard_lease(DEPLOYMENT, name or "region"), options.lease_seconds
        elector = Elector(store, clock, name=lease, holder=process.name, ttl=ttl, crowd=replica.crowd)
        observer = Observer(sim, process.name)
        observer.breakers = {"missing": self.sweep.breaker, "orphan": self.adopt.breaker}
        observer.gates, observer.freshness = gates, self.freshness
        controllers: list[Controller] = [self.launch, self.sweep, self.adopt, retry, cleanup]
        if aws.post and not name:
            client = QueueClient(aws.post, aws, process)
            listen = Listen(
                store,
                EventQueue(client, aws.post.sqs.url(QUEUE), clock, on_call=lambda *_: None, calls=1),  # type: ignore[arg-type] # what it calls
                clock,
                freshness=self.freshness,
                deployment=DEPLOYMENT,
                shard=name,
                on_event=lambda result, _: note("heard", who=process.name, result=result),
            )
            controllers.append(listen)
        self.manager = Manager(
            controllers,
            elector,
            Paced(clock, elector.interval),
            observer,
            finish=self._finish,
        )

    def _finish(self, lease: Lease) -> None:
        until = self._sim.now + 5.0
        while self.calls.under_way() and self._sim.now < until:
            self._process.pause(0.5)
        self.launch.record(lease)


class Replica:
    """One life of a daemon. Its process is its memory."""

    def __init__(self, sim: Sim, process: Process, database: Database, aws: Aws, options: Options) -> None:
        self.sim, self.process = sim, process
        self.clock = Monotonic(process, sim.chance.uniform(-0.001, 0.001))
        names = sorted({profile.shard for profile in options.profiles.all()})
        stores: dict[str, Any] = {
            name: StorePort(
                process,
                database,
                SqlStore(database.engine, DEPLOYMENT, name, on_written=partial(self._written, name)),
            )
            for name in names
        }
        leases = [shard_lease(DEPLOYMENT, name or "region") for name in names]
        self.crowd = (
            Crowd(
                stores[""],
                self.clock,
                deployment=DEPLOYMENT,
                holder=process.name,
                ttl=options.lease_seconds,
                shards=lambda: leases,
            )
            if len(names) > 1
            else None
        )
        self.shards = [Shard(self, name, stores[name], aws, options) for name in names]
        self._by_name = dict(zip(names, self.shards, strict=True))

    def _written(self, shard: str, old: Workload, new: Workload) -> None:
        self._by_name[shard].fallbacks.moved(old, new, self.clock.monotonic())
        self._by_name[shard].freshness.moved(old, new, self.clock.monotonic())

    def run(self) -> None:
        first, *others = self.shards
        fibers = [self.process.spawn(shard.manager.run) for shard in others]
        if self.crowd:
            self.process.spawn(self._look_round)
        first.manager.run()
        for fiber in fibers:
            self.process.join(fiber)
        self.process.kill("has ended in order")

    def _look_round(self) -> None:
        """See reconciler/daemon.py."""
        assert self.crowd is not None
        clock = Paced(self.clock, self.crowd.interval)
        while not clock.stopped:
            with suppress(StoreUnavailable):
                self.crowd.look()
            clock.wait(self.crowd.interval)

    def stop(self) -> None:
        """SIGTERM: finish the passes under way, record what is answered, let the lease go."""
        self.clock.stopped = True
        self.sim.happen()


class _Thread:
    """`threading.Thread` within the simulation: a fiber of the process that starts it."""

    def __init__(self, process: Process, target: Callable[..., None], args: tuple[Any, ...] = ()) -> None:
        self._process, self._run = process, lambda: target(*args)

    def start(self) -> None:
        self._fiber = self._process.spawn(self._run)

    name = "fiber"

    def join(self, timeout: float | None = None) -> None:
        self._process.join(self._fiber)

    def is_alive(self) -> bool:
        return False


class _Log:
    """The manager's log. What it did not foresee is a finding."""

    def __init__(self, sim: Sim) -> None:
        self._sim = sim

    def exception(self, event: str, **_: Any) -> None:
        error = sys.exc_info()[1]
        self._sim.note("unforeseen", who="daemon", what=event, error=f"{type(error).__name__}: {error}")

    def warning(self, event: str, **what: Any) -> None:
        if kind := what.get("kind"):
            self._sim.note("pass_failed", error=kind)

    def debug(self, event: str, **_: Any) -> None: ...

    def info(self, event: str, **_: Any) -> None: ...


@contextmanager
def simulated_manager(sim: Sim) -> Iterator[None]:
    """Fibers where the manager takes threads, and the trace where it takes its log."""

    def thread(target: Callable[..., None], args: tuple[Any, ...] = (), **_: Any) -> _Thread:
        return _Thread(getcurrent().process, target, args)

    with (
        patch.object(manager_module, "threading", SimpleNamespace(Thread=thread)),
        patch.object(manager_module, "log", _Log(sim)),
        # What a log line would carry with it: nobody reads any, and it takes as long as many a pass.
        patch.object(structlog.contextvars, "bound_contextvars", lambda **_: nullcontext()),
    ):
        yield
