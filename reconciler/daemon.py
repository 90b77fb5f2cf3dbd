"""The daemon, put together: settings in, one shard at work for each account and region, leases released at the end."""

from __future__ import annotations

import os
import secrets  # noqa: TID251 - a new holder for each process, so that the lease's epoch rises with every restart
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

import structlog
from botocore.exceptions import BotoCoreError
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

import reconciler
from reconciler import traces
from reconciler.announcer import announcer
from reconciler.core.errors import EcsThrottled, EcsUnavailable, StartError, StoreUnavailable
from reconciler.lease import Crowd
from reconciler.manager import END_SECONDS as END_OF_LEASE_SECONDS
from reconciler.manager import PASSES_SECONDS
from reconciler.metrics import Metrics
from reconciler.page.board import Board
from reconciler.page.pages import Pages
from reconciler.page.source import DaemonSource
from reconciler.page.table import Rules
from reconciler.seams import shard_lease
from reconciler.server import HttpServer, authority
from reconciler.shard import API_SERVER, CREDENTIALS, REPORT_INTERVAL, Common, Shard
from reconciler.store.daemon import SqlStore
from reconciler.store.engine import make_engine
from reconciler.store.migrate import NO_TABLES, at_head
from reconciler.store.watchdog import watch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import boto3
    from opentelemetry.trace import Tracer
    from sqlalchemy import Engine

    from reconciler.clock import SystemClock
    from reconciler.config import DaemonSettings
    from reconciler.ecs.ratelimit import Level
    from reconciler.options import ReconcilerOptions
    from reconciler.seams import Counts, Delivery, Lease

__all__ = ["run_daemon"]

log = structlog.get_logger()

END_SECONDS: Final = PASSES_SECONDS + END_OF_LEASE_SECONDS + 0.5
"""How long the shards are waited for when told to stop. One that still waits for its first answer ends with the
process."""
T = TypeVar("T")

LOOK_ROUND_EVERY: Final = 30.0
"""Seconds between two looks for tasks in accounts and regions that no queue names (any more)."""


def run_daemon(settings: DaemonSettings, delivery: Delivery, clock: SystemClock, session: boto3.Session) -> None:
    """Reconcile until `clock` is stopped. `session` brings the AWS credentials. Raises StartError."""
    options = settings.options
    engine = make_engine(settings.sql_alchemy_conn)
    watch(engine)
    unix = time.time  # noqa: TID251 - times for people, never compared with a row's
    metrics, board = Metrics(options.deployment), Board(unix)
    metrics.watch(engine)
    provider = traces.make_provider(options.deployment, reconciler.__version__) if options.traces else None
    tracer = provider.get_tracer("reconciler") if provider else None
    shards = Shards(settings, engine, metrics, board, delivery, clock, session, tracer)
    source = DaemonSource(
        engine,
        options.deployment,
        Rules(options.max_running_tasks, settings.shared.shares, settings.airflow_url),
        board,
        shards.held,
        shards.held_of,
        shards.leases,
        shards.levels,
        unix,
    )
    pages = Pages(source, clock.monotonic, token=options.status_page_token) if options.status_page else None
    server = _server(options, metrics, shards, pages)
    server.start()
    log.info("serving metrics and probes", address=f"http://{authority(options.http_host, server.port)}")
    try:
        if not _patience(clock, shards.waits_for)(at_head, engine):
            raise StartError(NO_TABLES)
        shards.run()
    except _EndedAtStartError:
        log.info("told to end before the start was done")
    finally:
        clock.stop()  # whatever ended this: no pass begins on what is closed now
        shards.close()
        traces.end(provider)
        server.close()
        engine.dispose()


def _server(options: ReconcilerOptions, metrics: Metrics, shards: Shards, pages: Pages | None) -> HttpServer:
    """Raises StartError where it can not listen."""
    try:
        return HttpServer(
            options.http_host, options.http_port, metrics.registry, shards.live, shards.ready, pages=pages
        )
    except OSError as error:
        raise StartError(
            f"can not listen on {authority(options.http_host, options.http_port)}: {error.strerror}; choose another "
            "[ecs_reconciler] http_port, or http_host"
        ) from error


class Shards:
    """All shards of one replica, each in a thread of its own: what hangs in one account delays none of the others."""

    def __init__(  # noqa: PLR0917 - all that they share
        self,
        settings: DaemonSettings,
        engine: Engine,
        metrics: Metrics,
        board: Board,
        delivery: Delivery,
        clock: SystemClock,
        session: boto3.Session,
        tracer: Tracer | None,
    ) -> None:
        self.waits_for: list[str] = []
        """What the start waits for, of the shard that has last complained."""
        self._clock = clock
        self._profiles = settings.profiles
        self._board = board
        self._store = SqlStore(engine, settings.options.deployment)
        self._counts = _Counted(self._store, clock)
        self._shards: dict[str, Shard] = {}
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []
        self._strange: set[str] = set()
        self._look_round_at = 0.0
        deployment, ttl = settings.options.deployment, settings.options.lease_seconds
        holder = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._roles = {profile.shard: profile.role_arn for profile in settings.profiles.all()}
        self._crowd = (
            Crowd(
                self._store,
                clock,
                deployment=deployment,
                holder=holder,
                ttl=ttl,
                shards=lambda: [shard_lease(deployment, name) for name in self._shards],
            )
            if len(self._roles) > 1
            else None
        )
        self._common = Common(
            settings,
            engine,
            metrics,
            delivery,
            clock,
            session,
            holder,
            self._crowd,
            board,
            lambda: len(self._shards) > 1,
            self.report,
            tracer,
        )
        self._announce = announcer(engine, settings, holder, self.trouble, clock)

    def run(self) -> None:
        """Work until the clock is stopped. Raises StartError, and whatever else ended a shard."""
        for name, role_arn in sorted(self._roles.items()):
            self._shards[name] = Shard(name, role_arn, self._common)
        self._look_round()
        for shard in list(self._shards.values()):
            self._start(shard)
        while not self._clock.stopped:
            self._clock.wait(self._crowd.interval if self._crowd else LOOK_ROUND_EVERY)
            for shard in self._look_round():
                self._start(shard)
        until = self._clock.monotonic() + END_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, until - self._clock.monotonic()))
        if self._errors:
            raise self._errors[0]
        if self._crowd:
            try:
                self._crowd.leave()
            except StoreUnavailable as error:
                log.warning("could not tell the other replicas", error=str(error))

    def live(self) -> tuple[bool, str]:
        """Whether all loops come round."""
        stuck = [f"{name}: {loop}" for name, shard in self._shards.copy().items() for loop in shard.stuck()]
        return not stuck, f"these loops hang: {', '.join(stuck)}" if stuck else "ok"

    def ready(self) -> tuple[bool, str]:
        """Whether work can be done, and if not, why."""
        shards = list(self._shards.copy().values())
        starting = [shard.name for shard in shards if not shard.started]
        if not shards or len(starting) == len(shards):
            return False, "; ".join(["starting", *self.waits_for])
        reasons = [f"{name} is starting" for name in starting]
        reasons += filter(None, [self.trouble()])
        if reasons:
            return False, "; ".join(reasons)
        led = sum(shard.elector.lease() is not None for shard in shards)
        reachable = self._crowd.reachable if self._crowd else all(shard.elector.reachable for shard in shards)
        leading = "leading" if len(shards) == 1 else f"leading {led} of {len(shards)} shards"
        return reachable, leading if led else "standing by"

    def held(self) -> dict[str, str]:
        """Why launches are held where this replica leads, by cause."""
        return self._of_all(Shard.held)

    def held_of(self, queue: str) -> str | None:
        """Why launches of a queue are held: where they would go, and by what launches them."""
        profile = self._profiles.of_queue(queue)
        shard = self._shards.get(profile.shard)
        reasons = shard.held() if shard else {}
        return next((reasons[cause] for cause in (profile.name, API_SERVER, CREDENTIALS) if cause in reasons), None)

    def trouble(self) -> str | None:
        """Why this replica can not do all of its work, for people."""
        starting = any(not shard.started for shard in self._shards.copy().values())
        return "; ".join(dict.fromkeys([*self.held().values(), *(self.waits_for if starting else ())])) or None

    def levels(self) -> dict[str, Level]:
        """The rate limits."""
        return self._of_all(Shard.levels)

    def leases(self) -> list[Lease]:
        """Those that this replica holds."""
        leases = (shard.elector.lease() for shard in self._shards.copy().values())
        return [lease for lease in leases if lease]

    def report(self) -> None:
        """Tell the table what troubles this replica, and the page what the table holds. Raises StoreUnavailable."""
        self._announce()
        self._board.counted(self._counts.counts(), self.held(), self._of_all(Shard.breakers))

    def _of_all(self, part: Callable[[Shard], Mapping[str, T]]) -> dict[str, T]:
        """What each shard says, with its name before it if there are several."""
        shards = self._shards.copy()
        return {
            name if len(shards) == 1 else f"{shard.name}/{name}": value
            for shard in shards.values()
            for name, value in part(shard).items()
        }

    def close(self) -> None:
        """Let threads and connections go."""
        for shard in self._shards.values():
            shard.close()

    def _look_round(self) -> list[Shard]:
        """Say how we are, count the other replicas, and find what runs where no queue is configured to run.

        Returns new shards.
        """
        try:
            self._announce()
            if self._crowd:
                self._crowd.look()
            if self._clock.monotonic() < self._look_round_at:
                return []
            self._look_round_at = self._clock.monotonic() + LOOK_ROUND_EVERY
            elsewhere = self._counts.counts().by_shard.keys() - self._shards.keys()
        except StoreUnavailable as error:
            log.warning("could not look for other replicas and shards", error=str(error))
            return []
        except Exception:
            # The tables may be gone for a while, in a restore for instance: the shards outlive that, and so must this.
            log.exception("could not look for other replicas and shards for a reason that was not foreseen")
            return []
        found = [shard for name in sorted(elsewhere) if (shard := self._retired(name))]
        for shard in found:
            self._shards[shard.name] = shard
        return found

    def _retired(self, name: str) -> Shard | None:
        """A shard that no queue names any more: it launches nothing, and is tended until nothing is left."""
        account = name.partition("/")[2]
        role_arn = next((role for role in self._roles.values() if role and role.split(":")[4] == account), None)
        if account and role_arn is None:
            self._complain_of(
                name,
                "tasks run in an account that no queue names, and nobody looks after them: put a queue with that "
                "account's role_arn back into [ecs_reconciler] queues until they have ended",
            )
            return None
        try:
            shard = Shard(name, role_arn, self._common)
        except (ValueError, BotoCoreError) as error:
            self._complain_of(name, f"rows name a region in which nobody can look after their tasks: {error}")
            return None
        log.warning("tasks run where no queue is configured to run: they are tended until they end", shard=name)
        return shard

    def _complain_of(self, name: str, what: str) -> None:
        """Said once, and the others go on."""
        if name not in self._strange:
            self._strange.add(name)
            log.error(what, shard=name)

    def _start(self, shard: Shard) -> None:
        def work() -> None:
            try:
                shard.run(_patience(self._clock, self.waits_for, self._announce))
            except BaseException as error:  # noqa: BLE001 - raised again by `run`, in the main thread
                self._errors.append(error)
                self._clock.stop()

        thread = threading.Thread(target=work, name=shard.name, daemon=True)
        self._threads.append(thread)
        thread.start()


class _Counted:
    """One count of the table for all shards that report it."""

    def __init__(self, store: SqlStore, clock: SystemClock) -> None:
        self._store, self._clock = store, clock
        self._lock = threading.Lock()
        self._counts: Counts | None = None
        self._until = 0.0

    def counts(self) -> Counts:
        """At most a report's interval old. Raises StoreUnavailable."""
        with self._lock:
            if self._counts is None or self._clock.monotonic() >= self._until:
                self._counts = self._store.counts()
                self._until = self._clock.monotonic() + REPORT_INTERVAL / 2
            return self._counts


class _EndedAtStartError(Exception):
    """The process was told to stop while it waited for what it needs at its start, which is no failure."""


def _patience(clock: SystemClock, waits_for: list[str], announce: Callable[[], None] | None = None) -> Retrying:
    """Repeat a check at start-up until database and ECS can be reached. Raises _EndedAtStartError if told to stop.

    `announce` says so to whoever asks for the status; there are no tables yet while they are what is waited for.
    """

    def say(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        waits_for[:] = [str(error)]
        log.warning("can not start yet, trying again", error=str(error))
        if announce and not isinstance(error, StoreUnavailable):
            with suppress(StoreUnavailable):  # it is said again with the next try
                announce()

    def give_up(_: RetryCallState) -> NoReturn:
        raise _EndedAtStartError

    return Retrying(
        retry=retry_if_exception_type((StoreUnavailable, EcsUnavailable, EcsThrottled)),
        wait=wait_random_exponential(max=15),
        stop=lambda _: clock.stopped,
        sleep=clock.wait,
        before_sleep=say,
        retry_error_callback=give_up,
    )
