"""The daemon, put together: settings in, the manager running, the lease released at the end."""

from __future__ import annotations

import os
import secrets  # noqa: TID251 - a new holder for each process, so that the lease's epoch rises with every restart
import socket
import time
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from reconciler.calls import CallPool
from reconciler.controllers import Controller, Result
from reconciler.controllers.adopt import Adopt
from reconciler.controllers.cleanup import Cleanup
from reconciler.controllers.launch import Launch
from reconciler.controllers.retry import Retry
from reconciler.core.errors import EcsThrottled, EcsUnavailable, StartError, StoreUnavailable
from reconciler.core.gate import Gate
from reconciler.core.phase import LIVE
from reconciler.ecs.client import make_client
from reconciler.ecs.gateway import READERS, Gateway
from reconciler.ecs.ratelimit import Limiter
from reconciler.lease import Elector
from reconciler.manager import Manager
from reconciler.metrics import Metrics
from reconciler.page.board import Board
from reconciler.page.pages import Pages
from reconciler.page.source import DaemonSource
from reconciler.server import HttpServer
from reconciler.store.daemon import SqlStore
from reconciler.store.engine import make_engine
from reconciler.store.inspect import holders
from reconciler.store.migrate import at_head

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from reconciler.clock import SystemClock
    from reconciler.config import DaemonSettings
    from reconciler.core.runtask import Profile
    from reconciler.seams import Delivery, Lease

__all__ = ["run_daemon"]

log = structlog.get_logger()

LAUNCHES_AT_ONCE: Final = 32
"""RunTask calls under way at once. At 20 a second and 600 ms for the slowest hundredth, 12 would do."""
FINISH_SECONDS: Final = 5.0
"""How long the end of the process waits for answers that are under way."""
REPORT_INTERVAL: Final = 2.0


class Leading:
    """Tells metrics and rate limits when this replica begins to lead, or ceases to. Implements `manager.Observer`."""

    def __init__(self, metrics: Metrics, limiter: Limiter, board: Board) -> None:
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
        gates: dict[str, Gate],
        metrics: Metrics,
        board: Board,
    ) -> None:
        self._store, self._metrics, self._board = store, metrics, board
        self._gates, self._adopt, self._limiter = gates, adopt, limiter

    def reconcile(self, lease: Lease) -> Result:  # noqa: ARG002 - the shape of a controller
        counts = self._store.counts()
        self._metrics.counted(counts, self._gates, self._adopt, self._limiter.levels())
        self._board.counted(counts, {name: gate.reason for name, gate in self._gates.items()}, self._adopt.breakers())
        return Result(requeue_after=REPORT_INTERVAL)


def run_daemon(settings: DaemonSettings, delivery: Delivery, clock: SystemClock) -> None:
    """Reconcile until `clock` is stopped. Raises StartError."""
    options = settings.options
    engine = make_engine(settings.sql_alchemy_conn)
    unix = time.time  # noqa: TID251 - times for people, never compared with a row's
    board = Board(unix)
    store = SqlStore(engine, options.deployment, on_saved=board.saved)
    metrics = Metrics(options.max_running_tasks)
    limiter = Limiter(clock, launch_rate=options.launch_rate, launch_burst=options.launch_burst)
    gateway = Gateway(
        make_client(settings.ecs.region_name, threads=LAUNCHES_AT_ONCE + READERS + 4),
        limiter,
        clock,
        deployment=options.deployment,
        now=store.now,
        resend_for=settings.policy.resend_for,
        on_call=metrics.called,
    )
    calls = CallPool(gateway, delivery, LAUNCHES_AT_ONCE)
    gates = {"ecs": Gate(), "api_server": Gate()}
    elector = Elector(
        store,
        clock,
        name=f"{options.deployment}/{settings.ecs.region_name}",
        holder=f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}",
        ttl=options.lease_seconds,
    )
    manager: Manager | None = None

    def live() -> tuple[bool, str]:
        stuck = manager.stuck() if manager else []
        return not stuck, f"these loops hang: {', '.join(stuck)}" if stuck else "ok"

    def ready() -> tuple[bool, str]:
        if manager is None:
            return False, "starting"
        reasons = [reason for gate in gates.values() if (reason := gate.reason)] if elector.lease() else []
        if reasons:
            return False, "; ".join(reasons)
        return elector.reachable, "leading" if elector.lease() else "standing by"

    source = DaemonSource(
        engine,
        options.deployment,
        options.max_running_tasks,
        board,
        gates,
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
        patiently = _patience(clock)
        if not patiently(at_head, engine):
            raise StartError(
                "the reconciler's tables are missing or of another version: run `airflow db migrate`, or "
                "`ecs-reconciler migrate` with the same database"
            )
        patiently(_check_region, settings, store, engine)
        profile = patiently(_profile, settings, gateway)
        launch = Launch(
            store,
            calls,
            delivery=delivery,
            clock=clock,
            profile=profile,
            policy=settings.policy,
            ecs_gate=gates["ecs"],
            api_gate=gates["api_server"],
            max_running_tasks=options.max_running_tasks,
            on_answer=metrics.answered,
        )
        adopt = Adopt(
            store,
            gateway,
            clock,
            profile=profile,
            policy=settings.policy,
            deployment=options.deployment,
            sweep_interval=options.sweep_interval,
            listing_interval=options.listing_interval,
            orphan_grace=options.orphan_grace,
            on_orphan=metrics.orphan,
        )
        controllers: list[Controller] = [
            launch,
            adopt,
            Retry(store, clock, policy=settings.policy, api_gate=gates["api_server"], on_retry=metrics.retried),
            Cleanup(
                store,
                gateway,
                clock,
                policy=settings.policy,
                retention=timedelta(seconds=options.retention),
            ),
            Report(store, adopt, limiter, gates=gates, metrics=metrics, board=board),
        ]

        def finish(lease: Lease) -> None:
            calls.drain(FINISH_SECONDS)
            launch.record(lease)

        manager = Manager(controllers, elector, clock, Leading(metrics, limiter, board), finish=finish)
        manager.run()
    finally:
        calls.close()
        gateway.close()
        server.close()
        engine.dispose()


def _patience(clock: SystemClock) -> Retrying:
    """Repeat a check at start-up until database and ECS can be reached, or the process is told to stop."""

    def say(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
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


def _profile(settings: DaemonSettings, gateway: Gateway) -> Profile:
    """Where tasks run, completed and checked by what ECS shows. Raises StartError for what can not work."""
    profile = settings.profile
    chosen = {"launchType", "capacityProviderStrategy"} & profile.run_task.keys()
    if chosen and not settings.ecs.check_health_on_startup:
        return profile
    cluster = gateway.describe_cluster(profile.cluster)
    if cluster is None or cluster.get("status") == "INACTIVE":
        raise StartError(
            f"[aws_ecs_executor] cluster: ECS has no active cluster {profile.cluster!r} in "
            f"{settings.ecs.region_name}; create it, or name another cluster or region_name"
        )
    if not chosen and not cluster.get("defaultCapacityProviderStrategy"):
        launch = {"launchType": "FARGATE", "platformVersion": settings.ecs.platform_version}
        profile = replace(profile, run_task={**launch, **profile.run_task})
    if settings.ecs.check_health_on_startup:
        definition = gateway.describe_task_definition(str(profile.run_task["taskDefinition"]))
        names = [container["name"] for container in definition.get("containerDefinitions", [])]
        if profile.container_name not in names:
            raise StartError(
                f"[aws_ecs_executor] container_name: {definition.get('taskDefinitionArn')} has no container "
                f"{profile.container_name!r}, only {', '.join(names)}; name one of these"
            )
    return profile
