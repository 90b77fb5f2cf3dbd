"""The order in which `doctor` looks at everything."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from reconciler.checks import CLUSTER, check_events, check_profile
from reconciler.config import ConfigError, Read, daemon_settings
from reconciler.core.errors import ReconcilerError, StoreUnavailable
from reconciler.core.finding import Finding, Level, error, fine, note
from reconciler.core.profiles import DEFAULT
from reconciler.doctor.airflow import check_address, check_airflow
from reconciler.doctor.aws import (
    Aws,
    check_clock,
    check_quota,
    check_rates,
    check_role,
    check_unknown_tasks,
)
from reconciler.doctor.components import check_components, settings_of_shims
from reconciler.doctor.database import check_database
from reconciler.doctor.pools import read_pools
from reconciler.doctor.rights import check_account
from reconciler.ecs.client import make_client, make_queue_client
from reconciler.ecs.events import EventQueue
from reconciler.ecs.gateway import Gateway
from reconciler.ecs.ratelimit import Limiter
from reconciler.ecs.role import assumed
from reconciler.store.daemon import SqlStore
from reconciler.store.engine import make_engine
from reconciler.store.migrate import at_head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import boto3
    from mypy_boto3_ecs import ECSClient
    from sqlalchemy import Engine

    from reconciler.config import DaemonSettings
    from reconciler.core.runtask import Profile
    from reconciler.seams import Clock

__all__ = ["Tools", "examine"]


@dataclass(frozen=True, slots=True)
class Tools:
    """What the composition root has made. `now`: this machine's clock, epoch seconds."""

    read: Read
    session: Callable[[DaemonSettings], boto3.Session]
    delivery: Callable[[DaemonSettings], object]
    """Raises ConfigError where tokens can not be signed."""
    clock: Clock
    now: Callable[[], float]


def examine(tools: Tools) -> list[Finding]:
    """All findings, in the order of the parts. Raises nothing that a user could mend."""
    try:
        settings = daemon_settings(tools.read)
    except ConfigError as failed:
        return [_of_problem(problem) for problem in failed.problems]
    found = [fine("configuration", "complete"), *_contained("signing key", lambda: _signing(settings, tools))]
    engine = None
    try:
        engine = make_engine(settings.sql_alchemy_conn)
    except ValueError as failed:
        found.append(error("[ecs_reconciler] sql_alchemy_conn", str(failed), "set it to Airflow's metadata database"))
    if engine is None:
        return found + _contained("AWS", lambda: _aws(settings, tools, None))
    found += _contained("database", lambda: check_database(engine, tools.now()))
    tables = engine if _ready(engine) else None
    found += _contained("AWS", lambda: _aws(settings, tools, tables))
    scheduler = settings_of_shims(tables, settings.options.deployment) if tables else {}
    found += _contained("Airflow", lambda: check_airflow(settings, tools.read, scheduler, read_pools(engine)))
    if tables is not None:
        found += _contained("components", lambda: check_components(tables, settings))
    engine.dispose()
    return found


def _ready(engine: Engine) -> bool:
    """Whether our tables can be read. Why not is what `check_database` says."""
    try:
        return at_head(engine)
    except StoreUnavailable:
        return False


def _of_problem(problem: str) -> Finding:
    """A sentence about options, which names its option first."""
    where, _, what = problem.partition(": ")
    return error(where, what, "") if what and where.startswith("[") else error("configuration", problem, "")


def _contained(where: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """The findings of one part, or that it could not look."""
    found: list[Finding] = []
    try:
        for finding in look():
            found.append(finding)  # noqa: PERF402 - what was found before an error is kept
    except (ReconcilerError, ConfigError) as failed:
        found.append(error(where, f"could not be checked: {failed}", "mend this first"))
    return found


def _signing(settings: DaemonSettings, tools: Tools) -> Iterator[Finding]:
    try:
        tools.delivery(settings)
    except ConfigError as failed:
        yield from (_of_problem(problem) for problem in failed.problems)
    else:
        yield fine("[api_auth]", "has the key that signs tasks' tokens")


def _aws(settings: DaemonSettings, tools: Tools, engine: Engine | None) -> Iterable[Finding]:
    """Each profile in its region. What is known of a place is not said twice."""
    session, said = tools.session(settings), set()
    store = SqlStore(engine, settings.options.deployment) if engine is not None else None
    for profile in settings.profiles.all():
        there = assumed(session, profile.role_arn, profile.region) if profile.role_arn else session
        with _gateway(there, profile.region, settings, tools) as (client, gateway):
            ours, aws = Aws(session, profile.region, client), Aws(there, profile.region, client)
            whose = "" if profile.name == DEFAULT else f'queue "{profile.name}", '
            look = partial(_profile, ours, aws, gateway, store, profile, settings, tools)
            for finding in _contained("AWS", look):
                if finding not in said:
                    said.add(finding)
                    yield replace(finding, where=whose + finding.where)


def _profile(  # noqa: PLR0917 - all that is looked at
    ours: Aws,
    aws: Aws,
    gateway: Gateway,
    store: SqlStore | None,
    profile: Profile,
    settings: DaemonSettings,
    tools: Tools,
) -> Iterable[Finding]:
    """As far as it leads: where we may not in, or there is no cluster, nothing else can be seen."""
    yield from check_address(profile, local=aws.local)
    if profile.role_arn:
        found = list(check_role(ours, aws, profile.role_arn))
        yield from found
        if any(finding.level is Level.ERROR for finding in found):
            return
    found = list(check_clock(aws, profile.cluster, tools.now))
    yield from found
    if any(finding.where.startswith("AWS") for finding in found):
        return
    profile, found = check_profile(profile, gateway, region=profile.region)
    yield from found
    if any(finding.level is Level.ERROR and finding.where == CLUSTER for finding in found):
        return
    options = settings.options
    yield from check_rates(aws, options.launch_rate, options.launch_burst, profile)
    definition = gateway.describe_task_definition(str(profile.run_task["taskDefinition"])) or {}
    yield from check_account(aws, profile, definition)
    limit = profile.max_running_tasks or settings.profiles.limits(options.max_running_tasks)[profile.shard]
    limits = (profile.max_cpu, options.max_cpu)
    max_cpu = min((units for units in limits if units is not None), default=None)
    yield from check_quota(aws, limit, profile, definition, max_cpu)
    if profile.events_queue_url:
        client = make_queue_client(profile.region, threads=1, session=aws.session)
        queue = EventQueue(client, profile.events_queue_url, tools.clock, on_call=lambda *_: None)
        yield from check_events(queue)
        queue.close()
    if store is not None:
        yield from check_unknown_tasks(gateway, store, profile, options.deployment)
    else:
        yield note("ECS tasks", "not compared with the table, which can not be read")


@contextmanager
def _gateway(
    session: boto3.Session, region: str, settings: DaemonSettings, tools: Tools
) -> Iterator[tuple[ECSClient, Gateway]]:
    client = make_client(region, threads=8, session=session)
    gateway = Gateway(
        client,
        Limiter(tools.clock, launch_rate=1, launch_burst=1),
        tools.clock,
        deployment=settings.options.deployment,
        now=lambda: datetime.fromtimestamp(tools.now(), UTC),  # it ages launches, and none is made here
        resend_for=settings.policy.resend_for,
        on_call=lambda *_: None,
    )
    try:
        yield client, gateway
    finally:
        gateway.close()
