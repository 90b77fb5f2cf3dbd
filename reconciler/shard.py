"""One account and region: its lease, its rate limits, its view of ECS, and the controllers that work there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from reconciler.calls import CallPool
from reconciler.checks import CLUSTER, check_events, check_profile
from reconciler.controllers import Controller, Result
from reconciler.controllers.adopt import Adopt
from reconciler.controllers.cleanup import Cleanup
from reconciler.controllers.launch import Launch
from reconciler.controllers.listen import Listen
from reconciler.controllers.retry import Retry
from reconciler.controllers.sweep import Sweep
from reconciler.core.errors import StartError
from reconciler.core.finding import Level
from reconciler.core.freshness import Freshness
from reconciler.core.gate import Gate
from reconciler.core.parameters import on_fargate
from reconciler.core.profiles import DEFAULT
from reconciler.core.spot import Fallbacks
from reconciler.ecs.access import Access
from reconciler.ecs.client import make_client, make_queue_client
from reconciler.ecs.definitions import Definitions
from reconciler.ecs.events import CALLS as EVENT_CALLS
from reconciler.ecs.events import EventQueue
from reconciler.ecs.gateway import READERS, Gateway
from reconciler.ecs.ratelimit import Level as RateLevel
from reconciler.ecs.ratelimit import Limiter
from reconciler.ecs.role import assumed
from reconciler.lease import Crowd, Elector
from reconciler.manager import Manager
from reconciler.seams import shard_lease
from reconciler.store.census import take_census
from reconciler.store.daemon import SqlStore
from reconciler.store.inspect import heard
from reconciler.traces import Trails

if TYPE_CHECKING:
    from collections.abc import Callable

    import boto3
    from opentelemetry.trace import Tracer
    from sqlalchemy import Engine
    from tenacity import Retrying

    from reconciler.clock import SystemClock
    from reconciler.config import DaemonSettings
    from reconciler.core.profiles import Profiles
    from reconciler.core.runtask import Profile
    from reconciler.core.task import Workload
    from reconciler.metrics import Metrics
    from reconciler.metrics import Shard as ShardMetrics
    from reconciler.page.board import Board
    from reconciler.seams import Delivery, Lease

__all__ = ["Common", "Shard"]

log = structlog.get_logger()

API_SERVER: Final = "api_server"
"""The cause that holds launches when Airflow's API server refuses everybody."""
CREDENTIALS: Final = "credentials"
"""The cause that holds launches when AWS does not accept who we are."""
LAUNCHES_AT_ONCE: Final = 32
"""RunTask calls under way at once. At 20 a second and 600 ms for the slowest hundredth, 12 would do."""
FINISH_SECONDS: Final = 5.0
"""How long the end of the process waits for answers that are under way."""
REPORT_INTERVAL: Final = 2.0
BACKLOG_INTERVAL: Final = 10.0
"""Seconds between two looks at how many events wait."""
SQS: Final = "sqs"
"""Where events come from, in metrics."""


@dataclass(frozen=True, slots=True)
class Common:
    """What the shards of one replica share."""

    settings: DaemonSettings
    engine: Engine
    metrics: Metrics
    delivery: Delivery
    clock: SystemClock
    session: boto3.Session
    """Brings the AWS credentials."""
    holder: str
    crowd: Crowd | None
    """None: there is one shard only."""
    board: Board
    several: Callable[[], bool]
    """Whether there are more shards than one, and people must be told which."""
    report: Callable[[], None]
    """Tells page and table what concerns all shards."""
    tracer: Tracer | None
    """None: no traces are wanted."""


class Shard:
    """Works until the clock is stopped. One that no queue names any more launches nothing and tends what runs."""

    def __init__(self, name: str, role_arn: str | None, common: Common) -> None:
        self.name, self._common = name, common
        settings, clock = common.settings, common.clock
        options = settings.options
        region = name.partition("/")[0]
        self._metrics = metrics = common.metrics.shard(name)
        self._access = Access(metrics.called, clock, listing_interval=options.listing_interval)
        self._fallbacks = Fallbacks()
        self._trails = Trails(common.tracer)
        self._store = SqlStore(
            common.engine,
            options.deployment,
            name,
            on_written=self._moved,
            on_unreadable=metrics.unreadable,
            on_lost=metrics.lost_race,
        )
        self._limiter = Limiter(clock, launch_rate=options.launch_rate, launch_burst=options.launch_burst)
        session = assumed(common.session, role_arn, region) if role_arn else common.session
        client = make_client(region, threads=LAUNCHES_AT_ONCE + READERS + 4, session=session)
        # ECS's answers also tell the time.
        client.meta.events.register("after-call.ecs", metrics.heard)
        self._gateway = Gateway(
            client,
            self._limiter,
            clock,
            deployment=options.deployment,
            now=self._store.now,
            resend_for=settings.policy.resend_for,
            on_call=self._access.called,
        )
        self.freshness = Freshness()
        url = settings.profiles.events_queue(name)
        self._events = url and EventQueue(
            make_queue_client(region, threads=EVENT_CALLS + 1, session=session),
            url,
            clock,
            on_call=metrics.called_beside,
        )
        self._calls = CallPool(self._gateway, common.delivery, LAUNCHES_AT_ONCE)
        self._ecs_gates = {profile.name: Gate() for profile in settings.profiles.of_shard(name)}
        self._api_gate = Gate()
        self.elector = Elector(
            self._store,
            clock,
            name=shard_lease(options.deployment, name),
            holder=common.holder,
            ttl=options.lease_seconds,
            crowd=common.crowd,
        )
        self._fresh, self._backlog_at = False, 0.0
        self._manager: Manager | None = None
        self._watching: tuple[Sweep, Adopt] | None = None
        self._said: dict[str, str] = {}

    @property
    def started(self) -> bool:
        """Its profiles have been checked, and it works or stands by."""
        return self._manager is not None

    def stuck(self) -> list[str]:
        """The loops that hang."""
        return self._manager.stuck() if self._manager else []

    def held(self) -> dict[str, str]:
        """Why launches are held where this replica leads: by profile, by Airflow's API server, by credentials."""
        if not self.elector.lease():
            return {}
        reasons = {name: gate.reason for name, gate in self._ecs_gates.items()}
        reasons |= {API_SERVER: self._api_gate.reason, CREDENTIALS: self._access.reason}
        return {cause: reason for cause, reason in reasons.items() if reason}

    def breakers(self) -> dict[str, bool]:
        """Whether too much looks wrong at once, where this replica leads."""
        if not self._watching or not self.elector.lease():
            return {}
        sweep, adopt = self._watching
        return {"missing": sweep.breaker.tripped, "orphans": adopt.breaker.tripped}

    def levels(self) -> dict[str, RateLevel]:
        """The rate limits."""
        return self._limiter.levels()

    def run(self, patiently: Retrying) -> None:
        """Raises StartError."""
        profiles = patiently(self._completed)
        if self._events:
            for finding in check_events(self._events):
                if finding.level is not Level.OK:
                    log.warning("a check at start-up", finding=str(finding))
        launch, controllers = self._controllers(profiles)

        def finish(lease: Lease) -> None:
            self._calls.drain(FINISH_SECONDS)
            launch.record(lease)

        leading = _Leading(self.name, self._metrics, self._limiter, self._trails, self._common)
        self._manager = Manager(controllers, self.elector, self._common.clock, leading, finish=finish)
        self._manager.run()

    def close(self) -> None:
        self._calls.close()
        self._gateway.close()
        if self._events:
            self._events.close()

    def _controllers(self, profiles: Profiles) -> tuple[Launch, list[Controller]]:
        settings, clock, metrics, store = self._common.settings, self._common.clock, self._metrics, self._store
        options = settings.options
        limit = profiles.limits(options.max_running_tasks).get(self.name, 0)
        metrics.quota(limit, profiles, options.max_cpu)
        launch = Launch(
            store,
            self._calls,
            delivery=self._common.delivery,
            clock=clock,
            profiles=profiles,
            shard=self.name,
            policy=settings.policy,
            ecs_gates=self._ecs_gates,
            api_gate=self._api_gate,
            fallbacks=self._fallbacks,
            max_running_tasks=limit,
            on_answer=metrics.answered,
            max_cpu=options.max_cpu,
            definition_of=Definitions(self._gateway, clock),
        )
        sweep = Sweep(
            store,
            self._gateway,
            clock,
            policy=settings.policy,
            sweep_interval=options.sweep_interval,
            freshness=self.freshness,
        )
        adopt = Adopt(
            store,
            self._gateway,
            clock,
            profiles=profiles,
            shard=self.name,
            policy=settings.policy,
            deployment=options.deployment,
            listing_interval=options.listing_interval,
            orphan_grace=options.orphan_grace,
            on_orphan=metrics.orphan,
            on_twins=metrics.twins,
        )
        self._watching = sweep, adopt
        retry = Retry(store, clock, policy=settings.policy, api_gate=self._api_gate)
        cleanup = Cleanup(
            store,
            self._gateway,
            clock,
            profiles=profiles,
            policy=settings.policy,
            retention=timedelta(seconds=options.retention),
        )
        controllers: list[Controller] = [launch, sweep, adopt, retry, cleanup, _Report(self, adopt)]
        if self._events:
            controllers.append(
                Listen(
                    store,
                    self._events,
                    clock,
                    freshness=self.freshness,
                    deployment=options.deployment,
                    shard=self.name,
                    on_event=partial(metrics.event, SQS),
                )
            )
        return launch, controllers

    def _moved(self, old: Workload, new: Workload) -> None:
        self._metrics.moved(old, new)
        self._common.board.moved(old, new)
        self._trails.moved(old, new)
        now = self._common.clock.monotonic()
        self._fallbacks.moved(old, new, now)
        self.freshness.moved(old, new, now)

    def report(self, adopt: Adopt) -> None:
        """Set the gauges of what is seen now. Raises StoreUnavailable."""
        common = self._common
        common.report()
        self._metrics.held(held := self.held())
        self._log_holds(held)
        self._metrics.seen(len(adopt.orphans), self.breakers(), self._limiter.levels())
        deployment = common.settings.options.deployment
        self._metrics.count(partial(take_census, common.engine, deployment, self.name))
        self._trails.settle(partial(heard, common.engine, deployment))
        if self._events:
            self._report_events(self._events)

    def _report_events(self, events: EventQueue) -> None:
        """Say when events begin or cease to be relied on, and how many wait. Raises EventsUnavailable."""
        reason = self.freshness.reason
        self._metrics.events_fresh(SQS, fresh=reason is None)
        if (reason is None) != self._fresh:
            self._fresh = reason is None
            what = f"events are not relied on: {reason}" if reason else "events tell what happens, looks are rare"
            self._common.board.happened(f"{what} ({self.name})" if self._common.several() else what)
            log.info(what)
        if self._common.clock.monotonic() >= self._backlog_at:
            self._backlog_at = self._common.clock.monotonic() + BACKLOG_INTERVAL
            self._metrics.event_backlog(SQS, events.backlog())

    def _log_holds(self, held: dict[str, str]) -> None:
        """Each cause in AWS's or Airflow's words: when it begins, when the words change, and when it ends."""
        for cause, reason in held.items():
            if self._said.get(cause) != reason:
                log.warning("launches are held", shard=self.name, cause=cause, reason=reason)
        for cause in self._said.keys() - held.keys():
            log.info("launches are held no longer", shard=self.name, cause=cause)
        self._said = held

    def _completed(self) -> Profiles:
        """Where tasks run, completed and checked by what ECS shows. Raises StartError for what can not work."""
        found = self._common.settings.profiles
        return replace(
            found,
            default=self._checked(found.default),
            named={name: self._checked(profile) for name, profile in found.named.items()},
        )

    def _checked(self, profile: Profile) -> Profile:
        check = self._common.settings.ecs.check_health_on_startup
        if profile.shard != self.name or (on_fargate(profile.run_task) is not None and not check):
            return profile
        profile, findings = check_profile(profile, self._gateway, region=profile.region)
        if not check:
            # Only what could not be completed without it.
            findings = [finding for finding in findings if finding.where == CLUSTER]
        whose = "" if profile.name == DEFAULT else f'[ecs_reconciler] queues, "{profile.name}": '
        for finding in findings:
            if finding.level is Level.WARNING:
                log.warning("a check at start-up", finding=f"{whose}{finding}")
        if errors := [f"{whose}{finding}" for finding in findings if finding.level is Level.ERROR]:
            raise StartError("\n".join(errors))
        return profile


class _Leading:
    """Tells metrics and rate limits when this replica begins to lead, or ceases to. Implements `manager.Observer`."""

    def __init__(self, shard: str, metrics: ShardMetrics, limiter: Limiter, trails: Trails, common: Common) -> None:
        self._shard, self._metrics, self._limiter, self._trails = shard, metrics, limiter, trails
        self._board, self._several = common.board, common.several

    def passed(self, controller: str, result: str, seconds: float) -> None:
        self._metrics.passed(controller, result, seconds)
        self._board.passed(controller, result, seconds, self._shard)

    def leading(self, epoch: int | None) -> None:
        if epoch is not None and epoch > 1:
            # The leader before us may have used up the account's tokens a moment ago.
            self._limiter.start_empty()
        if epoch is None:
            self._trails.forget()
        self._metrics.leading(epoch)
        self._board.leading(epoch, self._shard, among=self._several())


class _Report:
    """Sets the gauges of what the table holds. Not a controller, but paced and counted like one."""

    name = "report"

    def __init__(self, shard: Shard, adopt: Adopt) -> None:
        self._shard, self._adopt = shard, adopt

    def reconcile(self, lease: Lease) -> Result:  # noqa: ARG002 - the shape of a controller
        self._shard.report(self._adopt)
        return Result(requeue_after=REPORT_INTERVAL)
