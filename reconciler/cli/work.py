"""Commands that do the work: the daemon, its tables, and what holds it back."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from reconciler.cli import common

if TYPE_CHECKING:
    import argparse

__all__ = ["drain", "migrate", "pause", "resume", "run"]


def run(_: argparse.Namespace) -> int:
    """Reconcile the table against ECS until SIGTERM."""
    from concurrent.futures import ThreadPoolExecutor

    from reconciler.clock import SystemClock
    from reconciler.daemon import run_daemon
    from reconciler.ending import end_in_time
    from reconciler.log import configure

    settings = common.settings()
    configure(settings.options.log_format, settings.options.log_level)
    clock = SystemClock()
    session = common.aws(settings, clock)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: clock.stop())
    end_in_time(clock)
    # Python runs signal handlers in the main thread, and not while that waits inside a database driver.
    with ThreadPoolExecutor(1, thread_name_prefix="daemon") as beside:
        beside.submit(run_daemon, settings, common.delivery(settings), clock, session).result()
    return 0


def migrate(arguments: argparse.Namespace) -> int:
    """Create or upgrade the tables."""
    from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

    from reconciler.core.errors import StoreUnavailable
    from reconciler.store.engine import make_engine
    from reconciler.store.grant import grant
    from reconciler.store.migrate import migrate as to_head

    common.quiet()
    read = common.options()
    url = read("ecs_reconciler", "sql_alchemy_conn") or read("database", "sql_alchemy_conn") or ""
    engine = make_engine(url)
    patiently = Retrying(
        retry=retry_if_exception_type(StoreUnavailable),
        stop=stop_after_delay(arguments.wait),
        wait=wait_fixed(2),
        reraise=True,
    )
    patiently(to_head, engine)
    if arguments.grant:
        patiently(grant, engine, arguments.grant)
    engine.dispose()
    print("The tables of ecs-reconciler are as this release needs them.")
    return 0


def pause(arguments: argparse.Namespace) -> int:
    """Launch nothing more, of one queue or of all, until `resume`. What runs goes on."""
    return _hold(arguments, "paused")


def drain(arguments: argparse.Namespace) -> int:
    """Launch nothing more and give what waits back to Airflow: before an upgrade, a rollback or maintenance."""
    return _hold(arguments, "draining")


def _hold(arguments: argparse.Namespace, mode: str) -> int:
    from reconciler import control
    from reconciler.clock import SystemClock
    from reconciler.core.holds import Mode

    settings = common.settings()
    engine, deployment = common.tables(settings), settings.options.deployment
    queue = arguments.queue or ""
    print(control.hold(engine, deployment, queue, Mode(mode)), flush=True)
    if queue and queue not in (known := settings.profiles.queues()):
        print(f'The queue "{queue}" has no profile of its own; these have one: {", ".join(known)}.', flush=True)
    if getattr(arguments, "wait", False):
        for line in control.drain(engine, deployment, queue, SystemClock()):
            print(line, flush=True)
    engine.dispose()
    return 0


def resume(arguments: argparse.Namespace) -> int:
    """End `pause` or `drain`."""
    from reconciler import control

    settings = common.settings()
    engine = common.tables(settings)
    print(control.resume(engine, settings.options.deployment, arguments.queue or ""))
    engine.dispose()
    return 0
