"""The JSON behind the page, version 1: docs/status-page.md describes each field. Fields are added, never changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from reconciler.core.phase import Phase
from reconciler.core.why import is_problem, why

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from reconciler.core.task import Workload
    from reconciler.core.why import Circumstances
    from reconciler.page.board import Pass
    from reconciler.store.history import Event
    from reconciler.store.listing import Pulse

__all__ = ["API_VERSION", "CONTROLLERS", "controllers", "event", "links", "quota", "workload"]

API_VERSION: Final = 1
CONTROLLERS: Final[dict[str, Callable[[Pulse], int | None]]] = {
    "launch": lambda pulse: pulse.by_phase.get(Phase.PENDING, 0),
    "sweep": lambda pulse: pulse.in_flight,
    "adopt": lambda _: None,
    "retry": lambda _: None,
    "cleanup": lambda pulse: pulse.unwanted,
}
"""The controllers, and how many open workloads each has to look at."""

_CONSOLES: Final = {
    "aws": "console.aws.amazon.com",
    "aws-us-gov": "console.amazonaws-us-gov.com",
    "aws-cn": "console.amazonaws.cn",
    "aws-eusc": "console.amazonaws-eusc.eu",
}
"""AWS's console by the partition in an ARN. Of others no link is made."""


def quota(limit: int, by_phase: Mapping[Phase, int]) -> dict[str, int]:
    """The gauge: what counts against the limit, and what waits."""
    running = by_phase.get(Phase.RUNNING, 0)
    stopping = by_phase.get(Phase.STOPPING, 0)
    starting = by_phase.get(Phase.LAUNCHING, 0) + by_phase.get(Phase.STARTED, 0)
    used = running + stopping + starting
    return {
        "limit": limit,
        "used": used,
        "headroom": max(0, limit - used),
        "running": running,
        "stopping": stopping,
        "starting": starting,
        "pending": by_phase.get(Phase.PENDING, 0),
    }


def controllers(passes: Mapping[str, Pass], pulse: Pulse | None) -> list[dict[str, Any]]:
    """Each controller with its last pass and its backlog. Times are Unix times; None: not known."""
    found = []
    for name, backlog in CONTROLLERS.items():
        last = passes.get(name)
        found.append(
            {
                "name": name,
                "last_pass_at": last and last.at,
                "last_success_at": last and last.succeeded_at,
                "result": last and last.result,
                "duration_seconds": last and round(last.seconds, 3),
                "backlog": pulse and backlog(pulse),
                "shard": last.shard if last else None,
            }
        )
    return found


def workload(w: Workload, now: datetime, around: Circumstances, airflow_url: str | None) -> dict[str, Any]:
    """One line of the table. It holds neither spec nor parameters: those come from DAG authors, and may be large."""
    since = w.intent_at if w.in_flight else w.created_at if w.phase is Phase.PENDING else w.updated_at
    return {
        "exec_id": w.exec_id,
        "kind": w.kind.value,
        "dag_id": w.key.dag_id,
        "task_id": w.key.task_id,
        "run_id": w.key.run_id,
        "map_index": w.key.map_index,
        "try_number": w.key.try_number,
        "queue": w.queue,
        "phase": w.phase.value,
        "desired": w.desired.value,
        "problem": is_problem(w),
        "why": why(w, now, around),
        "age_seconds": round((now - since).total_seconds(), 1) if since else None,
        "created_at": _iso(w.created_at),
        "updated_at": _iso(w.updated_at),
        "attempt": w.attempt,
        "start_failures": w.start_failures,
        "exit_code": w.exit_code,
        "task_arn": w.task_arn,
        "links": links(w, airflow_url),
    }


def event(e: Event) -> dict[str, Any]:
    """One line of what happened, as the table remembers it."""
    return {
        "at": e.at.timestamp(),
        "exec_id": e.workload.exec_id,
        "dag_id": e.workload.key.dag_id,
        "task": str(e.workload.key),
        "from": None,
        "phase": e.phase.value,
        "attempt": e.attempt,
        "what": e.what,
        "problem": e.problem,
    }


def links(w: Workload, airflow_url: str | None) -> dict[str, str]:
    """Where else this workload can be seen: ECS's console, and Airflow's page of the task instance."""
    found: dict[str, str] = {}
    # arn:partition:ecs:region:account:task/cluster/id
    parts = (w.task_arn or "").split(":", 5)
    if len(parts) == 6 and parts[5].count("/") == 2 and (console := _CONSOLES.get(parts[1])):
        _, cluster, task = parts[5].split("/")
        region = quote(parts[3])
        found["ecs"] = (
            f"https://{region}.{console}/ecs/v2/clusters/{quote(cluster)}/tasks/{quote(task)}"
            f"/configuration?region={region}"
        )
    if airflow_url and w.key.dag_id:
        mapped = f"/mapped/{w.key.map_index}" if w.key.map_index >= 0 else ""
        found["airflow"] = (
            f"{airflow_url.rstrip('/')}/dags/{quote(w.key.dag_id, safe='')}/runs/{quote(w.key.run_id, safe='')}"
            f"/tasks/{quote(w.key.task_id, safe='')}{mapped}?try_number={w.key.try_number}"
        )
    return found


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None
