"""What `status` and `describe` say, for people and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from reconciler.core.finding import Level
from reconciler.core.phase import IN_FLIGHT, Desired, Phase

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from rich.console import Console

    from reconciler.core.finding import Finding
    from reconciler.core.profiles import Profiles
    from reconciler.core.task import EcsTask, Workload
    from reconciler.seams import Counts
    from reconciler.store.inspect import Attempt, Holder

__all__ = ["Story", "as_json", "show_findings", "show_status", "show_story", "status"]


@dataclass(frozen=True, slots=True)
class Story:
    """One workload with all that is known of it."""

    workload: Workload
    attempts: Sequence[Attempt]
    ecs_task: EcsTask | None
    """None: there is none, or ECS was not asked."""
    ecs_error: str | None
    """Why ECS could not be asked."""


def status(
    deployment: str, counts: Counts, limit: int, holders: Sequence[Holder], profiles: Profiles
) -> dict[str, Any]:
    """What `status` says."""
    return {
        "deployment": deployment,
        "phases": {phase.value: counts.by_phase.get(phase, 0) for phase in Phase},
        "quota": {"limit": limit, "used": counts.in_flight, "headroom": max(0, limit - counts.in_flight)},
        "oldest_pending_seconds": round(counts.oldest_pending, 1),
        "leaders": [asdict(holder) for holder in holders],
        "shards": _shards(counts, profiles),
        "holds": [asdict(hold) for hold in counts.holds.all()],
        "queues": [_queue(name, counts, profiles) for name in sorted({*counts.by_queue, *profiles.queues()})],
    }


def _shards(counts: Counts, profiles: Profiles) -> list[dict[str, Any]]:
    """The accounts and regions in which tasks run or may run."""
    configured = {profile.shard for profile in profiles.all()}
    return [
        {"shard": name, "in_flight": counts.by_shard.get(name, 0), "configured": name in configured}
        for name in sorted({*configured, *counts.by_shard})
    ]


def _queue(name: str, counts: Counts, profiles: Profiles) -> dict[str, Any]:
    """One queue of Airflow's: its profile and how far from its own limit it is."""
    phases, profile, hold = counts.by_queue.get(name, {}), profiles.of_queue(name), counts.holds.of(name)
    return {
        "queue": name,
        "profile": profile.name,
        "pending": phases.get(Phase.PENDING, 0),
        "in_flight": sum(phases.get(phase, 0) for phase in IN_FLIGHT),
        "limit": profile.max_running_tasks,
        "held": str(hold.mode) if hold else None,
    }


def as_json(value: Any) -> str:
    """JSON for scripts. Times are ISO 8601."""
    return json.dumps(value, indent=2, default=_plain)


def _plain(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else asdict(value)


def show_status(console: Console, found: Mapping[str, Any]) -> None:
    """A screen for a person on call: is it healthy, how far from the quota, does anything wait?"""
    quota = found["quota"]
    leaders = [holder for holder in found["leaders"] if holder["valid"]]
    console.print(f"[bold]{found['deployment']}[/]")
    for leader in leaders:
        console.print(f"  leader          {leader['holder']} ({leader['name']}, epoch {leader['epoch']})")
    if not leaders:
        console.print("  leader          [bold red]none: nothing is launched or observed. Does the daemon run?[/]")
    for trouble in found["trouble"]:
        console.print("  trouble        ", f"[bold red]{escape(trouble)}[/]")
    console.print(f"  quota           {quota['used']} of {quota['limit']} used, {quota['headroom']} free")
    console.print(f"  oldest pending  {found['oldest_pending_seconds']} s")
    for shard in found["shards"] if len(found["shards"]) > 1 else ():
        gone = "" if shard["configured"] else "  [yellow]no queue names it any more: tended until these end[/]"
        console.print(f"  {shard['shard']:<15} {shard['in_flight']} ECS tasks{gone}")
    for hold in found["holds"]:
        what = f"queue {hold['queue']}" if hold["queue"] else "all queues"
        since = _time(hold["since"])
        console.print(f"  held            [yellow]{what}: {hold['mode']} by {hold['held_by']} since {since}[/]")
    if len(found["queues"]) > 1:
        queues = Table("queue", "profile", "pending", "in flight", "limit", "", box=None, pad_edge=False)
        for queue in found["queues"]:
            cells = (queue["pending"], queue["in_flight"], "" if queue["limit"] is None else queue["limit"])
            queues.add_row(queue["queue"], queue["profile"], *map(str, cells), queue["held"] or "")
        console.print(queues)
    table = Table("phase", "workloads", box=None, pad_edge=False)
    for phase, count in found["phases"].items():
        table.add_row(phase, str(count), style=None if count else "dim")
    console.print(table)
    console.print("[dim]Terminal phases count what no scheduler has acknowledged yet.[/]")


def show_findings(console: Console, findings: Sequence[Finding]) -> None:
    """One line for each finding, the worst first, and what to do below it."""
    order = list(Level)
    for finding in sorted(findings, key=lambda f: order.index(f.level)):
        style = _STYLES[finding.level]
        console.print(f"[{style}]{finding.level:<8}[/] {escape(finding.where)}: {escape(finding.what)}")
        if finding.mend:
            console.print(f"         [dim]->[/] {escape(finding.mend)}")
    counts = {level: sum(f.level is level for f in findings) for level in Level}
    told = (f"{counts[level]} {level}{'' if counts[level] == 1 else 's'}" for level in (Level.ERROR, Level.WARNING))
    console.print(f"[bold]{', '.join(told)}[/]")


_STYLES = {Level.ERROR: "bold red", Level.WARNING: "yellow", Level.NOTE: "cyan", Level.OK: "green"}


def show_story(console: Console, story: Story) -> None:
    """One workload: what was asked, every attempt, the ECS task, and why it waits or failed."""
    w = story.workload
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    rows: list[tuple[str, object]] = [
        ("workload", f"{w.exec_id}  {w.key}"),
        ("phase", f"{w.phase}  {_why(w)}"),
        ("desired", w.desired + (f"  {w.desired_reason}" if w.desired_reason else "")),
        ("created", _time(w.created_at)),
        ("not before", _time(w.not_before) if w.phase is Phase.PENDING else None),
        ("queue", w.queue),
        ("owner", f"scheduler job {w.owner_job_id}" if w.owner_job_id else None),
        ("acknowledged", "yes" if w.acked_version >= w.version else "no"),
        ("ECS task", w.task_arn),
        ("exit code", w.exit_code),
        ("executor_config", json.dumps(w.spec.executor_config) if w.spec and w.spec.executor_config else None),
    ]
    if story.ecs_task:
        task = story.ecs_task
        rows.append(("ECS shows", f"{task.last_status}" + (f"  {task.why_stopped}" if task.stopped else "")))
    elif story.ecs_error:
        rows.append(("ECS shows", f"not known: {story.ecs_error}"))
    for name, value in rows:
        if value is not None:
            table.add_row(name, str(value))
    console.print(table)
    if story.attempts:
        log = Table("attempt", "intent", "ended", "verdict", "ECS task", box=None, pad_edge=False)
        for attempt in story.attempts:
            arn = (attempt.task_arn or "").rsplit("/", 1)[-1]
            ended = _time(attempt.closed_at) or ""
            log.add_row(str(attempt.attempt), _time(attempt.intent_at), ended, attempt.verdict or "", arn)
        console.print(log)


def _why(w: Workload) -> str:
    if w.reason:
        return w.reason
    if w.phase is Phase.PENDING:
        return "waits for a free slot, a free launch, or its predecessor's container to end"
    return "to be stopped" if w.desired is Desired.STOP and not w.terminal else ""


def _time(value: datetime | None) -> str | None:
    return value.isoformat(sep=" ", timespec="seconds") if value else None
