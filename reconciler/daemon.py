"""The daemon, put together: settings in, the manager running, the lease released at the end."""

from __future__ import annotations

import os
import secrets  # noqa: TID251 - a new holder for each process, so that the lease's epoch rises with every restart
import socket
import time
from dataclasses import asdict, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

import reconciler
from reconciler.calls import CallPool
from reconciler.checks import CLUSTER, check_profile
from reconciler.controllers import Controller, Result
from reconciler.controllers.adopt import Adopt
from reconciler.controllers.cleanup import Cleanup
from reconciler.controllers.launch import Launch
from reconciler.controllers.retry import Retry
from reconciler.core.errors import EcsThrottled, EcsUnavailable, StartError, StoreUnavailable
from reconciler.core.finding import Level
from reconciler.core.gate import Gate
from reconciler.core.parameters import on_fargate
from reconciler.core.phase import LIVE
from reconciler.core.profiles import DEFAULT
from reconciler.core.spot import Fallbacks
from reconciler.ecs.access import Access
from reconciler.ecs.client import make_client
from reconciler.ecs.gateway import READERS, Gateway
from reconciler.ecs.loggroups import LogGroups
from reconciler.ecs.ratelimit import Limiter
from reconciler.lease import Elector
from reconciler.manager import Manager
from reconciler.metrics import Metrics, Shard
from reconciler.page.board import Board
from reconciler.page.pages import Pages
from reconciler.page.source import DaemonSource
from reconciler.server import HttpServer
from reconciler.store.census import Census, take_census
from reconciler.store.components import ANNOUNCE_EVERY, Component, announce
from reconciler.store.daemon import SqlStore
from reconciler.store.engine import make_engine, translated, writing
from reconciler.store.inspect import holders
from reconciler.store.migrate import at_head
from reconciler.store.watchdog import watch

if TYPE_CHECKING:
    from collections.abc import Callable

    import boto3
    from mypy_boto3_ecs import ECSClient
    from sqlalchemy import Engine

    from reconciler.clock import SystemClock
    from reconciler.config import DaemonSettings
    from reconciler.core.profiles import Profiles
    from reconciler.core.runtask import Profile
    from reconciler.core.task import Workload
    from reconciler.seams import Clock, Delivery, Lease

__all__ = ["run_daemon"]

log = structlog.get_logger()

LAUNCHES_AT_ONCE: Final = 32
"""RunTask calls under way at once. At 20 a second and 600 ms for the slowest hundredth, 12 would do."""
FINISH_SECONDS: Final = 5.0
"""How long the end of the process waits for answers that are under way."""
REPORT_INTERVAL: Final = 2.0
API_SERVER: Final = "api_server"
"""The cause that holds launches when Airflow's API server refuses everybody."""


class Leading:
    """Tells metrics and rate limits when this replica begins to lead, or ceases to. Implements `manager.Observer`."""

    def __init__(self, metrics: Shard, limiter: Limiter, board: Board) -> None:
        self._metrics, self._limiter, self._board = metrics, limiter, board

    def passed(self, controller: str, result: str, seconds: float) -> None:
        self._metrics.passed(controller, result, seconds)
        self._board.passed(controller, result, seconds)

    def leading(self, epoch: int | None) -> None:
        if epoch is not None and epoch > 1:
            # The leader before us may have used up the account's tokens a moment ago.
            self._limiter.start_empty()
        self._metrics.leading(epoch)
        self._board.leading(epoch)


class Report:
    """Sets the gauges of what the table holds. Not a controller, but paced and counted like one."""

    name = "report"

    def __init__(
        self,
        store: SqlStore,
        adopt: Adopt,
        limiter: Limiter,
        *,
        census: Callable[[], Census],
        held: Callable[[], dict[str, str]],
        metrics: Shard,
        board: Board,
        announce: Callable[[], None],
    ) -> None:
        self._store, self._adopt, self._limiter = store, adopt, limiter
        self._census, self._held, self._metrics, self._board = census, held, metrics, board
        self._announce = announce

    def reconcile(self, lease: Lease) -> Result:  # noqa: ARG002 - the shape of a controller
        self._announce()
        held = self._held()
        self._metrics.held(held)
        self._metrics.seen(len(self._adopt.orphans), self._adopt.breakers(), self._limiter.levels())
        self._metrics.count(self._census)
        self._board.counted(self._store.counts(), held, self._adopt.breakers())
        return Result(requeue_after=REPORT_INTERVAL)


def run_daemon(  # noqa: PLR0915 - the composition root, in the order in which things begin
    settings: DaemonSettings, delivery: Delivery, clock: SystemClock, session: boto3.Session
) -> None:
    """Reconcile until `clock` is stopped. `session` brings the AWS credentials. Raises StartError."""
    options = settings.options
    engine = make_engine(settings.sql_alchemy_conn)
    watch(engine)
    unix = time.time  # noqa: TID251 - times for people, never compared with a row's
    metrics, fallbacks, board = Metrics(options.deployment), Fallbacks(), Board(unix)
    shard = _shard(settings, metrics, engine)

    def moved(old: Workload, new: Workload) -> None:
        shard.moved(old, new)
        fallbacks.moved(old, new, clock.monotonic())
        board.moved(old, new)

    store = SqlStore(engine, options.deployment, moved, shard.unreadable, shard.lost_race)
    access = Access(shard.called)
    waits_for: list[str] = []
    limiter = Limiter(clock, launch_rate=options.launch_rate, launch_burst=options.launch_burst)
    gateway = Gateway(
        _client(settings, shard, session),
        limiter,
        clock,
        deployment=options.deployment,
        now=store.now,
        resend_for=settings.policy.resend_for,
        on_call=access.called,
    )
    calls = CallPool(gateway, delivery, LAUNCHES_AT_ONCE)
    ecs_gates = {profile.name: Gate() for profile in settings.profiles.all()}
    api_gate = Gate()
    holder = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    elector = Elector(
        store,
        clock,
        name=f"{options.deployment}/{settings.ecs.region_name}",
        holder=holder,
        ttl=options.lease_seconds,
    )
    manager: Manager | None = None

    def held() -> dict[str, str]:
        """Why launches are held: by profile, by Airflow's API server, by credentials."""
        reasons = {name: gate.reason for name, gate in ecs_gates.items()}
        reasons |= {API_SERVER: api_gate.reason, "credentials": access.reason}
        return {cause: reason for cause, reason in reasons.items() if reason}

    def live() -> tuple[bool, str]:
        stuck = manager.stuck() if manager else []
        return not stuck, f"these loops hang: {', '.join(stuck)}" if stuck else "ok"

    def trouble() -> str | None:
        return "; ".join(dict.fromkeys(held().values())) or None

    def ready() -> tuple[bool, str]:
        if manager is None:
            return False, "; ".join(["starting", *waits_for])
        if elector.lease() and (reason := trouble()):
            return False, reason
        return elector.reachable, "leading" if elector.lease() else "standing by"

    source = DaemonSource(
        engine,
        options.deployment,
        options.max_running_tasks,
        board,
        held,
        elector.lease,
        limiter.levels,
        unix,
        settings.airflow_url,
    )
    pages = Pages(source, clock.monotonic, token=options.status_page_token) if options.status_page else None
    server = HttpServer(options.http_host, options.http_port, metrics.registry, live, ready, pages=pages)
    server.start()
    log.info("serving metrics and probes", address=f"http://{options.http_host}:{server.port}")
    try:
        patiently = _patience(clock, waits_for)
        if not patiently(at_head, engine):
            raise StartError(
                "the reconciler's tables are missing or of another version: run `airflow db migrate`, or "
                "`ecs-reconciler migrate` with the same database"
            )
        patiently(_check_region, settings, store, engine)
        profiles = patiently(_profiles, settings, gateway)
        launch = Launch(
            store,
            calls,
            delivery=delivery,
            clock=clock,
            profiles=profiles,
            policy=settings.policy,
            ecs_gates=ecs_gates,
            api_gate=api_gate,
            fallbacks=fallbacks,
            max_running_tasks=options.max_running_tasks,
            on_answer=shard.answered,
            logs_of=LogGroups(gateway, clock),
        )
        adopt = Adopt(
            store,
            gateway,
            clock,
            profiles=profiles,
            policy=settings.policy,
            deployment=options.deployment,
            sweep_interval=options.sweep_interval,
            listing_interval=options.listing_interval,
            orphan_grace=options.orphan_grace,
            on_orphan=shard.orphan,
            on_twins=shard.twins,
        )
        controllers: list[Controller] = [
            launch,
            adopt,
            Retry(store, clock, policy=settings.policy, api_gate=api_gate),
            Cleanup(
                store,
                gateway,
                clock,
                profiles=profiles,
                policy=settings.policy,
                retention=timedelta(seconds=options.retention),
            ),
            Report(
                store,
                adopt,
                limiter,
                census=partial(take_census, engine, options.deployment),
                held=held,
                metrics=shard,
                board=board,
                announce=announcer(engine, settings, holder, trouble, clock),
            ),
        ]

        def finish(lease: Lease) -> None:
            calls.drain(FINISH_SECONDS)
            launch.record(lease)

        manager = Manager(controllers, elector, clock, Leading(shard, limiter, board), finish=finish)
        manager.run()
    finally:
        calls.close()
        gateway.close()
        server.close()
        engine.dispose()


def announcer(
    engine: Engine, settings: DaemonSettings, name: str, trouble: Callable[[], str | None], clock: Clock
) -> Callable[[], None]:
    """Says what this daemon is set to and what troubles it, when that changes and once a minute."""
    said: tuple[str | None, float] | None = None

    def say() -> None:
        nonlocal said
        now, what = clock.monotonic(), trouble()
        if said is not None and said[0] == what and now - said[1] < ANNOUNCE_EVERY:
            return
        me = Component("daemon", name, reconciler.__version__, {"options": asdict(settings.shared)}, what)
        with translated(), writing(engine).begin() as conn:
            announce(conn, settings.options.deployment, me)
        said = (what, now)

    return say


def _shard(settings: DaemonSettings, metrics: Metrics, engine: Engine) -> Shard:
    """What is told of this daemon's one shard, and of the database's engine."""
    metrics.watch(engine)
    shard = metrics.shard(settings.ecs.region_name)
    shard.quota(settings.options.max_running_tasks, settings.profiles)
    return shard


def _client(settings: DaemonSettings, shard: Shard, session: boto3.Session) -> ECSClient:
    """The client for ECS, whose answers also tell the time."""
    client = make_client(settings.ecs.region_name, threads=LAUNCHES_AT_ONCE + READERS + 4, session=session)
    client.meta.events.register("after-call.ecs", shard.heard)
    return client


def _patience(clock: SystemClock, waits_for: list[str]) -> Retrying:
    """Repeat a check at start-up until database and ECS can be reached, or the process is told to stop."""

    def say(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        waits_for[:] = [str(error)]
        log.warning("can not start yet, trying again", error=str(error))

    return Retrying(
        retry=retry_if_exception_type((StoreUnavailable, EcsUnavailable, EcsThrottled)),
        wait=wait_random_exponential(max=15),
        stop=lambda _: clock.stopped,
        sleep=clock.wait,
        before_sleep=say,
        reraise=True,
    )


def _check_region(settings: DaemonSettings, store: SqlStore, engine: Engine) -> None:
    """Raise StartError while this deployment has tasks in another region.

    A client token means nothing there: a launch whose answer was lost would be sent a second time, and what runs would
    look MISSING.
    """
    region = settings.ecs.region_name
    ours = f"{settings.options.deployment}/{region}"
    elsewhere = {holder.name for holder in holders(engine, settings.options.deployment) if holder.valid} - {ours}
    arns = {w.task_arn for w in store.in_phase(*LIVE).workloads if w.task_arn}
    elsewhere |= {arn for arn in arns if f":{region}:" not in arn}
    if elsewhere:
        raise StartError(
            f"[aws_ecs_executor] region_name is {region}, but this deployment still has a daemon or tasks elsewhere "
            f"({min(elsewhere)}): go back to that region until they have ended, or name another [ecs_reconciler] "
            "deployment"
        )


def _profiles(settings: DaemonSettings, gateway: Gateway) -> Profiles:
    """Where tasks run, completed and checked by what ECS shows. Raises StartError for what can not work."""
    found = settings.profiles
    check = settings.ecs.check_health_on_startup
    return replace(
        found,
        default=_profile(found.default, gateway, check=check),
        named={name: _profile(profile, gateway, check=check) for name, profile in found.named.items()},
    )


def _profile(profile: Profile, gateway: Gateway, *, check: bool) -> Profile:
    """One profile, completed and checked. Raises StartError."""
    if on_fargate(profile.run_task) is not None and not check:
        return profile
    profile, findings = check_profile(profile, gateway, region=profile.region)
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
