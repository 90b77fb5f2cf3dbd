"""Airflow's own settings, where they keep tasks from running, or from running for long enough to begin."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from reconciler.core.finding import Finding, error, fine, note, warning
from reconciler.doctor.pools import check_pools

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from reconciler.config import DaemonSettings, Read
    from reconciler.core.runtask import Profile
    from reconciler.doctor.pools import Pools

__all__ = ["check_address", "check_airflow"]

CAPS: Final = {
    "[core] parallelism": ("it holds for each scheduler", "raise it, to {limit} divided by the schedulers at least"),
    "[core] max_active_tasks_per_dag": (
        "it holds for each DAG run: one with more tasks than this waits for itself",
        "raise it to what the largest DAG run needs, {limit} at most, or set max_active_tasks in that DAG",
    ),
}
"""What bounds the tasks that run at once, what that means, and the way out."""
CLUSTER_LOCAL: Final = (".svc", ".cluster.local", ".local", ".internal.cloudapp.net")
PER_WORKER: Final = 250
"""Tasks whose heartbeats (one in five seconds each) one worker of the API server bears without being busy."""


def check_airflow(
    settings: DaemonSettings, read: Read, scheduler: Mapping[str, Any], pools: Pools | str | None
) -> Iterator[Finding]:
    """`scheduler`: what a running scheduler has told of its settings; what it has not is read here."""
    its = _Settings(read, scheduler)
    limit = settings.options.max_running_tasks
    whose = "a scheduler" if scheduler else "this configuration"
    before = 0
    for name, (meaning, mend) in CAPS.items():
        value = its.number(name)
        if value is not None and value < limit:
            before += 1
            what = f"{value:g} in {whose}, below max_running_tasks = {limit}: {meaning}"
            yield warning(name, what, mend.format(limit=limit))
    runs = its.number("[core] max_active_runs_per_dag")
    per_run = its.number("[core] max_active_tasks_per_dag")
    if runs and per_run and runs * per_run < limit:
        what = f"{runs:g} runs of {per_run:g} tasks: one DAG can not use {limit}"
        yield note("[core] max_active_runs_per_dag", what, "raise either if one DAG should")
    per_loop = its.number("[scheduler] max_tis_per_query")
    if per_loop and per_loop < min(limit, 256):
        what = f"{per_loop:g} tasks are queued in one loop of the scheduler, at most"
        yield warning("[scheduler] max_tis_per_query", what, "set it to 0 (as many as there are slots) or to 256")
    yield from check_pools(pools, limit, settings.shared.shares)
    yield from _timeouts(settings, its)
    yield from _server(its, limit)
    if not before:
        yield fine("Airflow's parallelism", f"allows {limit} tasks")


def _timeouts(settings: DaemonSettings, its: _Settings) -> Iterator[Finding]:
    """A launched task must be RUNNING before Airflow calls it stuck; what waits longer than a third is given back."""
    queued = its.number("[scheduler] task_queued_timeout")
    start = settings.longest_start_timeout.total_seconds()
    if queued is not None and queued < start * 1.5:
        what = f"{queued:g} s, with a start_timeout of {start:g} s: Airflow takes back what may still start in time"
        mend = f"set [scheduler] task_queued_timeout to {start * 1.5:g}, or start_timeout to {queued / 1.5:g}"
        yield warning("[scheduler] task_queued_timeout", what, mend)
    interval = its.number("[workers] min_heartbeat_interval")
    failed = its.number("[workers] max_failed_heartbeats")
    if interval and failed and interval * failed < 30:
        what = f"{failed:g} heartbeats in {interval * failed:g} s: so short an outage of the API server ends every task"
        yield warning("[workers] max_failed_heartbeats", what, "raise it, or min_heartbeat_interval, to 30 s and more")
    lost = its.number("[scheduler] task_instance_heartbeat_timeout")
    if interval and failed and lost and lost < 2 * interval * failed:
        what = f"{lost:g} s: Airflow fails a task while it still tries to reach the API server"
        yield warning(
            "[scheduler] task_instance_heartbeat_timeout", what, f"set it to {2 * interval * failed:g} or more"
        )


def _server(its: _Settings, limit: int) -> Iterator[Finding]:
    workers = its.number("[api] workers")
    wanted = -(-limit // PER_WORKER)
    if workers is not None and workers < wanted:
        what = f"{workers:g}, and {limit} tasks send {limit / 5:g} heartbeats a second"
        yield warning("[api] workers", what, f"{wanted} workers over all replicas, or a longer min_heartbeat_interval")
    size, more = its.number("[database] sql_alchemy_pool_size"), its.number("[database] sql_alchemy_max_overflow")
    if size is not None and more is not None and limit >= 200 and 0 < size + more < 30:
        what = f"{size:g} and {more:g} more connections for each process"
        yield warning("[database] sql_alchemy_pool_size", what, "20 and 20 suit hundreds of tasks, behind PgBouncer")
    if str(its.text("[logging] remote_logging")).lower() not in ("true", "t", "1", "yes", "on"):
        mend = "a container's disk is gone with it: keep logs in S3 or CloudWatch"
        yield warning("[logging] remote_logging", "it is off", mend)


def check_address(profile: Profile, *, local: bool) -> Iterator[Finding]:
    """Whether a container can reach the Execution API. `local`: containers are processes of this machine."""
    where = "[ecs_reconciler] execution_api_server_url"
    url = profile.environment["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"]
    parts = urlsplit(url)
    host = parts.hostname or ""
    mend = "give the address of a load balancer or a name that resolves in the tasks' subnets"
    if parts.scheme not in ("http", "https") or not host:
        yield error(where, f"{url!r} is no http address", "it looks like https://airflow.internal/execution/")
    elif not parts.path.rstrip("/").endswith("/execution"):
        yield warning(where, f"{url} does not end with /execution/", "that is where Airflow's API server has it")
    elif local:
        yield fine(where, f"{url}, for containers on this machine")
    elif host == "localhost" or _loopback(host):
        yield error(where, f"{url} is, for a container, the container itself", mend)
    elif host.endswith(CLUSTER_LOCAL) or "." not in host:
        yield error(where, f"{host} is known inside of one cluster or machine only", mend)
    else:
        yield fine(where, url)


def _loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


@dataclass(frozen=True, slots=True)
class _Settings:
    """Airflow's settings by `[section] option`."""

    read: Read
    scheduler: Mapping[str, Any]

    def text(self, name: str) -> str | None:
        if name in self.scheduler:
            value = self.scheduler[name]
            return None if value is None else str(value)
        section, _, option = name.partition("] ")
        return self.read(section.removeprefix("["), option)

    def number(self, name: str) -> float | None:
        """None: not set, or not a number, which Airflow says itself."""
        try:
            return float(self.text(name) or "")
        except ValueError:
            return None
