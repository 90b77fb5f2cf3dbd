"""Commands that look, and change nothing."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from reconciler.cli import common
from reconciler.cli.watch import again

if TYPE_CHECKING:
    import argparse

    from sqlalchemy import Engine

    from reconciler.config import DaemonSettings
    from reconciler.core.task import Workload
    from reconciler.show import Story

__all__ = ["describe", "doctor", "events", "status"]


def status(arguments: argparse.Namespace) -> int:
    """Show counts by phase, quota, leader, and how long the oldest workload has waited."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    from reconciler import show
    from reconciler.clock import SystemClock

    settings, console = common.settings(), Console()
    engine = common.tables(settings)

    def found() -> dict[str, Any]:
        return _status(engine, settings)

    def look_as_json() -> None:
        print(show.as_json(found(), line=True), flush=True)

    if arguments.watch and arguments.json:
        again(
            look_as_json,
            arguments.interval,
            SystemClock(),
            lambda text: print(show.as_json({"error": text}, line=True)),
        )
    elif arguments.watch:
        # A screen of its own; what was there before comes back at the end, and the last answer below it.
        last: Group = Group()
        with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:

            def look() -> None:
                nonlocal last
                last = show.status_screen(found())
                live.update(last, refresh=True)

            def say(text: str) -> None:
                live.update(Group(Text(text, style="bold red"), last), refresh=True)

            again(look, arguments.interval, SystemClock(), say)
        if console.is_terminal:
            console.print(last)
    elif arguments.json:
        print(show.as_json(found()))
    else:
        console.print(show.status_screen(found()))
    engine.dispose()
    return 0


def _status(engine: Engine, settings: DaemonSettings) -> dict[str, Any]:
    """Raises StoreUnavailable."""
    from reconciler import show
    from reconciler.store.components import announced
    from reconciler.store.daemon import SqlStore
    from reconciler.store.inspect import holders

    deployment = settings.options.deployment
    counts = SqlStore(engine, deployment).counts()
    limit = settings.options.max_running_tasks
    found = show.status(deployment, counts, limit, holders(engine, deployment), settings.profiles)
    found["trouble"] = [c.trouble for c in announced(engine, deployment) if c.kind == "daemon" and c.trouble]
    return found


def events(arguments: argparse.Namespace) -> int:
    """Show what happened to workloads: queued, launched, running, tried again, ended, and why. The newest last."""
    from rich.console import Console

    from reconciler import show
    from reconciler.clock import SystemClock
    from reconciler.store.history import history
    from reconciler.store.listing import MOST, Wanted

    settings, console = common.settings(), Console()
    engine = common.tables(settings)
    wanted = Wanted(
        dag_id=arguments.dag,
        task_id=arguments.task,
        run_id=arguments.run_id,
        map_index=arguments.map,
        queue=arguments.queue,
        limit=MOST if arguments.watch else arguments.limit,  # all that a wave between two looks may bring
    )
    told: set[tuple[Any, ...]] = set()

    def look() -> None:
        found = history(engine, settings.options.deployment, wanted)
        named = {(e.workload.exec_id, e.attempt, e.phase, e.at): e for e in found}
        new = [event for name, event in named.items() if name not in told]
        first = not told
        if first:
            new = new[-max(1, arguments.limit) :]
        elif len(new) >= MOST:
            print("More has happened since the last look than can be shown.", file=sys.stderr, flush=True)
        told.update(named)
        if arguments.json:
            for event in new:
                print(show.as_json(show.event_document(event), line=True), flush=True)
        elif new:
            console.print(show.event_lines(new, header=first))

    if arguments.watch:
        again(look, arguments.interval, SystemClock(), lambda text: print(text, file=sys.stderr, flush=True))
    else:
        look()
        if not told and not arguments.json:
            print("Nothing that matches is in the table.")
    engine.dispose()
    return 0


def describe(arguments: argparse.Namespace) -> int:
    """Show one task's workloads: what was asked, every attempt, the ECS task, why it waits or failed."""
    from rich.console import Console

    from reconciler import show
    from reconciler.store.inspect import workloads_of

    settings = common.settings()
    engine = common.tables(settings)
    unreadable: dict[str, str] = {}
    found = workloads_of(
        engine,
        settings.options.deployment,
        arguments.dag_id,
        arguments.task_id,
        arguments.run_id,
        arguments.map,
        arguments.try_number,
        on_unreadable=unreadable.__setitem__,
    )
    stories = [_story(engine, settings, w) for w in found]
    engine.dispose()
    if arguments.json:
        print(show.as_json([*stories, *({"exec_id": name, "unreadable": why} for name, why in unreadable.items())]))
        return 0 if stories or unreadable else 1
    console = Console()
    for exec_id, why in unreadable.items():
        console.print(
            f"The row {exec_id} of this task can not be read, and is left alone: {why}. If a newer release wrote it, "
            "upgrade this one; else mend or delete the row.",
            markup=False,
            emoji=False,
        )
    if not stories and not unreadable:
        console.print(
            f"No workload of {arguments.dag_id}.{arguments.task_id} is in the table of "
            f"{settings.options.deployment!r}: it has not been queued with this executor, or is older than "
            f"[ecs_reconciler] retention.",
            markup=False,
            emoji=False,
        )
    for number, story in enumerate(stories):
        if number:
            console.rule(style="dim")
        show.show_story(console, story)
    return 0 if stories or unreadable else 1


def _story(engine: Engine, settings: DaemonSettings, w: Workload) -> Story:
    from reconciler.clock import SystemClock
    from reconciler.core.errors import ReconcilerError
    from reconciler.ecs.client import make_client
    from reconciler.ecs.gateway import Gateway
    from reconciler.ecs.ratelimit import Limiter
    from reconciler.ecs.role import assumed
    from reconciler.show import Story
    from reconciler.store.daemon import SqlStore
    from reconciler.store.inspect import attempts_of

    task, error = None, None
    if w.task_arn and not w.terminal:
        clock, store = SystemClock(), SqlStore(engine, settings.options.deployment)
        region = w.shard.partition("/")[0] or settings.ecs.region_name
        roles = {profile.shard: profile.role_arn for profile in settings.profiles.all()}
        role_arn, session = roles.get(w.shard), common.aws(settings, clock)
        gateway = Gateway(
            make_client(region, threads=1, session=assumed(session, role_arn, region) if role_arn else session),
            Limiter(clock, launch_rate=1, launch_burst=1),
            clock,
            deployment=settings.options.deployment,
            now=store.now,
            resend_for=settings.policy.resend_for,
            on_call=lambda *_: None,
        )
        try:
            task = next(iter(gateway.describe(w.cluster or "", [w.task_arn]).tasks), None)
        except ReconcilerError as failed:
            error = str(failed)
        finally:
            gateway.close()
    return Story(w, attempts_of(engine, w.exec_id), task, error)


def doctor(arguments: argparse.Namespace) -> int:
    """Check configuration, database, AWS and Airflow's settings, and say what to mend. Exit code 1: errors."""
    import time

    from rich.console import Console

    from reconciler import show
    from reconciler.clock import SystemClock
    from reconciler.core.finding import Level
    from reconciler.doctor import Tools, examine

    common.quiet()
    read, clock = common.options(), SystemClock()
    tools = Tools(read, lambda settings: common.aws(settings, clock), common.delivery, clock, time.time)  # noqa: TID251 - a composition root
    found = examine(tools)
    if arguments.json:
        print(show.as_json(found))
    else:
        show.show_findings(Console(), found)
    return int(any(finding.level is Level.ERROR for finding in found))
