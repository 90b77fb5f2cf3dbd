"""What `status`, `describe`, `events` and `doctor` say, for people and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from reconciler.core.finding import Level
from reconciler.core.phase import IN_FLIGHT, Desired, Phase
from reconciler.core.task import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from rich.console import Console, RenderableType

    from reconciler.core.finding import Finding
    from reconciler.core.profiles import Profiles
    from reconciler.core.task import EcsTask, Workload
    from reconciler.seams import Counts
    from reconciler.store.history import Event
    from reconciler.store.inspect import Attempt, Holder

__all__ = [
    "Story",
    "as_json",
    "event_document",
    "event_lines",
    "show_findings",
    "show_story",
    "status",
    "status_screen",
]


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


def as_json(value: Any, *, line: bool = False) -> str:
    """JSON for scripts, in one line if asked. Times are ISO 8601."""
    return json.dumps(value, indent=None if line else 2, default=_plain)


def _plain(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else asdict(value)


def status_screen(found: Mapping[str, Any]) -> Group:
    """A screen for a person on call: is it healthy, how far from the quota, does anything wait?"""
    quota = found["quota"]
    leaders = [holder for holder in found["leaders"] if holder["valid"]]
    lines = [f"[bold]{escape(found['deployment'])}[/]"]
    for leader in leaders:
        where = f"({leader['name']}, epoch {leader['epoch']})"
        lines.append(f"  leader          {escape(leader['holder'])} {escape(where)}")
    if not leaders:
        lines.append("  leader          [bold red]none: nothing is launched or observed. Does the daemon run?[/]")
    lines += [f"  trouble         [bold red]{escape(trouble)}[/]" for trouble in found["trouble"]]
    lines.append(f"  quota           {quota['used']} of {quota['limit']} used, {quota['headroom']} free")
    lines.append(f"  oldest pending  {found['oldest_pending_seconds']} s")
    for shard in found["shards"] if len(found["shards"]) > 1 else ():
        gone = "" if shard["configured"] else "  [yellow]no queue names it any more: tended until these end[/]"
        lines.append(f"  {escape(shard['shard']):<15} {shard['in_flight']} ECS tasks{gone}")
    for hold in found["holds"]:
        what = escape(f"queue {hold['queue']}" if hold["queue"] else "all queues")
        by = f"{hold['mode']} by {escape(hold['held_by'])} since {_time(hold['since'])}"
        lines.append(f"  held            [yellow]{what}: {by}[/]")
    parts: list[RenderableType] = [Text.from_markup(line, emoji=False) for line in lines]
    if len(found["queues"]) > 1:
        queues = Table("queue", "profile", "pending", "in flight", "limit", "", box=None, pad_edge=False)
        for queue in found["queues"]:
            cells = (queue["pending"], queue["in_flight"], "" if queue["limit"] is None else queue["limit"])
            queues.add_row(Text(queue["queue"]), Text(queue["profile"]), *map(str, cells), queue["held"] or "")
        parts.append(queues)
    table = Table("phase", "workloads", box=None, pad_edge=False)
    for phase, count in found["phases"].items():
        table.add_row(phase, str(count), style=None if count else "dim")
    note = Text.from_markup("[dim]Terminal phases count what no scheduler has acknowledged yet.[/]")
    return Group(*parts, table, note)


def event_document(event: Event) -> dict[str, Any]:
    """One moment of one workload, for scripts."""
    w = event.workload
    return {
        "at": event.at,
        "exec_id": w.exec_id,
        **asdict(w.key),
        "queue": w.queue,
        "attempt": event.attempt,
        "phase": event.phase.value,
        "what": event.what,
        "problem": event.problem,
        "task_arn": event.task_arn,
    }


def event_lines(events: Sequence[Event], *, header: bool = True) -> Table:
    """A line for each, in columns that stay where they are from one call to the next."""
    table = Table(box=None, pad_edge=False, show_header=header, header_style="bold")
    table.add_column("time (UTC)", width=14, no_wrap=True, style="dim")
    table.add_column("phase", width=max(map(len, Phase)), no_wrap=True)
    table.add_column("what", overflow="fold", ratio=1)
    for event in events:
        w = event.workload
        whose = f"callback {w.exec_id}" if w.kind is Kind.CALLBACK else str(w.key)
        attempt = f", attempt {event.attempt}" if event.attempt > 1 else ""
        what = Text.assemble((whose, "bold"), attempt, ": ", event.what)
        when = event.at.astimezone(UTC).strftime("%m-%d %H:%M:%S")
        table.add_row(when, Text(event.phase, style="bold red" if event.problem else ""), what)
    return table


def show_findings(console: Console, findings: Sequence[Finding]) -> None:
    """One line for each finding, the worst first, and what to do below it."""
    order = list(Level)
    for finding in sorted(findings, key=lambda f: order.index(f.level)):
        style = _STYLES[finding.level]
        said = f"[{style}]{finding.level:<8}[/] {escape(finding.where)}: {escape(finding.what)}"
        console.print(said, emoji=False)  # an ARN with ":secret:" is no emoji
        if finding.mend:
            console.print(f"         [dim]->[/] {escape(finding.mend)}", emoji=False)
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
            table.add_row(name, Text(str(value)))
    console.print(table)
    if story.attempts:
        log = Table("attempt", "intent", "ended", "verdict", "ECS task", box=None, pad_edge=False)
        for attempt in story.attempts:
            arn = (attempt.task_arn or "").rsplit("/", 1)[-1]
            ended = _time(attempt.closed_at) or ""
            cells = (str(attempt.attempt), _time(attempt.intent_at) or "", ended, attempt.verdict or "", arn)
            log.add_row(*map(Text, cells))
        console.print(log)


def _why(w: Workload) -> str:
    if w.reason:
        return w.reason
    if w.phase is Phase.PENDING:
        return "waits for a free slot, a free launch, or its predecessor's container to end"
    return "to be stopped" if w.desired is Desired.STOP and not w.terminal else ""


def _time(value: datetime | None) -> str | None:
    return value.isoformat(sep=" ", timespec="seconds") if value else None
