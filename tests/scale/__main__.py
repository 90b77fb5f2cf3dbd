"""Many tasks on one machine: the shim's INSERT, a real daemon process, PostgreSQL and the local ECS; prints a table.

    python -m tests.scale [--live 5000] [--pending 10000] [--finished 100000] [--window 20] [--ending 10]

Tasks run until they are told to end, so that thousands cost this machine nothing. RunTask is not limited to Fargate's
rate here: with it 5,000 launches would take four minutes. What is measured is the daemon and its database.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.core.phase import Phase
from reconciler.localecs import LocalEcs, Settings
from reconciler.metrics.catalogue import CONTROLLERS
from reconciler.store.migrate import migrate
from tests.postgres import Server, postgres_server
from tests.scale.crowd import Crowd, fill
from tests.site import Daemon, Site

if TYPE_CHECKING:
    from collections.abc import Callable

say = print
_TICKS = os.sysconf("SC_CLK_TCK")
_READ = "SELECT sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_user_tables WHERE relname LIKE 'ecs\\_%%'"


@dataclass(frozen=True, slots=True)
class Seen:
    """Counters at one moment."""

    at: float
    daemon: float
    database: float
    """Seconds of CPU."""
    rows: int
    statements: float
    described: float
    passes: dict[str, tuple[float, float]]


class Eye:
    """Looks at daemon and database from outside."""

    def __init__(self, site: Site, server: Server, daemon: Daemon) -> None:
        self._site, self._server, self._daemon = site, server, daemon
        self._spent: dict[int, float] = {}
        """By process of the server: one that has ended keeps what it had."""

    def look(self) -> Seen:
        metric = self._daemon.metric
        name = "ecs_reconciler_reconcile_duration_seconds"
        self._spent |= {pid: spent for pid in self._server.processes() if (spent := cpu(pid))}
        described = metric('ecs_reconciler_aws_api_requests_total{operation="DescribeTasks",result="ok"}')
        with self._site.engine.connect() as conn:
            rows = int(conn.exec_driver_sql(_READ).scalar_one())
        return Seen(
            time.monotonic(),
            cpu(self._daemon.process.pid),
            sum(self._spent.values()),
            rows,
            metric("ecs_reconciler_db_statement_duration_seconds_count"),
            0.0 if math.isnan(described) else described,
            {
                c: (metric(f'{name}_sum{{controller="{c}"}}'), metric(f'{name}_count{{controller="{c}"}}'))
                for c in CONTROLLERS
            },
        )

    def memory(self) -> int:
        """The daemon's, at most so far, in MiB."""
        status = Path(f"/proc/{self._daemon.process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) // 1024


def cpu(pid: int) -> float:
    """Seconds that a process has had. 0 for one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def row(what: str, one: Seen, other: Seen) -> str:
    """What happened between two looks, as a line of the table."""
    seconds = other.at - one.at
    shown = [
        f"{(other.daemon - one.daemon) / seconds:.1%}",
        f"{(other.database - one.database) / seconds:.1%}",
        f"{(other.statements - one.statements) / seconds:.0f}",
        f"{(other.rows - one.rows) / seconds:,.0f}",
        f"{(other.described - one.described) / seconds:.1f}",
    ]
    for name in CONTROLLERS:
        (spent, passes), (spent_before, passes_before) = other.passes[name], one.passes[name]
        each = (spent - spent_before) / max(1.0, passes - passes_before)
        shown.append(f"{each * 1000:.0f} ms")
    return f"| {what} | " + " | ".join(shown) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("live", 5000), ("pending", 10_000), ("finished", 100_000), ("ending", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--window", type=float, default=20.0, help="seconds for which each state is measured")
    given = parser.parse_args()
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(postgres_server())
        ecs = stack.enter_context(LocalEcs(settings=Settings.unthrottled()))
        site = Site(ecs, home)
        site.use(f"postgresql://{server.user}@/postgres?host={server.folder}")
        stack.callback(site.engine.dispose)
        migrate(site.engine)
        measure(site, server, given)


def measure(site: Site, server: Server, given: argparse.Namespace) -> None:
    if given.finished:
        fill(site.engine, Crowd(given.finished, live=0, pending=0, shard="us-east-1", deployment="test"))
    began = time.monotonic()
    every = [f"w{n:07}" for n in range(given.live + given.pending)]
    for first in range(0, len(every), 1000):
        site.queue(*every[first : first + 1000])
    inserted = (time.monotonic() - began) / len(every) * 1_000_000
    options = {
        "AIRFLOW__ECS_RECONCILER__MAX_RUNNING_TASKS": str(given.live),
        "AIRFLOW__ECS_RECONCILER__LAUNCH_RATE": "1000",
        "AIRFLOW__ECS_RECONCILER__LAUNCH_BURST": "1000",
        "AIRFLOW__ECS_RECONCILER__SWEEP_INTERVAL": "1",
    }
    with site.daemon(**options) as daemon:
        daemon.until_it_says("this replica leads")
        eye = Eye(site, server, daemon)
        began, one = time.monotonic(), eye.look()
        until(lambda: site.store.counts().by_phase[Phase.RUNNING] >= given.live, 1200)
        filled, full = time.monotonic() - began, eye.look()
        lines = [row("filling", one, full)]
        time.sleep(5)
        one = eye.look()
        time.sleep(given.window)
        lines.append(row("full and idle", one, eye.look()))
        one = eye.look()
        ended = churn(site, given.window, given.ending)
        lines.append(row(f"{given.ending} end each second", one, eye.look()))
        own = resource.getrusage(resource.RUSAGE_SELF)
        say(f"{given.live} live, {given.pending} pending, {given.finished} finished; load {os.getloadavg()[0]:.1f}")
        say(f"inserted in {inserted:.0f} ms a thousand, filled in {filled:.0f} s, {ended} ended")
        say(f"daemon: at most {eye.memory()} MiB; the far end: {own.ru_utime + own.ru_stime:.0f} s of CPU\n")
        say(table(lines))


def churn(site: Site, window: float, rate: int) -> int:
    """End so many containers a second, evenly. Returns how many."""
    with site.ecs.lock:
        arns = sorted(task.arn for task in site.ecs.model._tasks.known.values() if not task.stopped)
    began, ended = time.monotonic(), 0
    while (passed := time.monotonic() - began) < window:
        while ended < min(len(arns), passed * rate):
            site.ecs.container_exited(arns[ended], "airflow", 0)
            ended += 1
        time.sleep(0.05)
    return ended


def until(condition: Callable[[], bool], within: float) -> None:
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {within:.0f} s")
        time.sleep(0.5)


def table(lines: list[str]) -> str:
    """With its head."""
    head = ["state", "daemon CPU", "database CPU", "statements/s", "rows read/s", "DescribeTasks/s"]
    head += [f"{name} pass" for name in CONTROLLERS]
    return "\n".join([f"| {' | '.join(head)} |", "|" + " --- |" * len(head), *lines])


if __name__ == "__main__":
    main()
