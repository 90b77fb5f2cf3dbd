"""Why a workload is where it is, in words: one source for the command line, the status page and Airflow's UI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.core.phase import Desired, Phase

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from reconciler.core.task import Workload

__all__ = ["Circumstances", "is_problem", "why"]


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What else decides whether a PENDING workload is launched. The defaults: not known."""

    headroom: int | None = None
    """Free slots."""
    held: str | None = None
    """Why launches are held behind a probe."""
    leading: bool = True
    """Whether any daemon leads."""


def why(w: Workload, now: datetime, around: Circumstances = Circumstances()) -> str:
    """One line for people: what a workload waits for, how long it has, or how it ended."""
    if w.phase is Phase.PENDING:
        return _pending(w, now, around)
    since = _for(now, w.intent_at)
    after = f", attempt {w.attempt} after: {w.reason}" if w.attempt > 1 and w.reason else ""
    if w.phase is Phase.LAUNCHING:
        return f"RunTask was decided {since} ago" + (f": {w.reason}" if w.reason else ", its answer is awaited")
    if w.phase is Phase.STARTED:
        return f"{w.last_status or 'PROVISIONING'} for {since}{after}"
    if w.phase is Phase.RUNNING:
        if w.desired is Desired.STOP:
            return f"runs, and is to end: {w.desired_reason or 'not wanted any more'}"
        return f"runs for {_for(now, w.started_at or w.intent_at)}"
    if w.phase is Phase.STOPPING:
        return f"is being stopped: {w.reason or w.desired_reason or 'not wanted any more'}"
    code = "" if w.exit_code is None else f"exit code {w.exit_code}"
    return ": ".join(part for part in (code, w.reason or w.desired_reason or "") if part)


def is_problem(w: Workload) -> bool:
    """Whether somebody on call would want to see it first."""
    if w.phase in (Phase.FAILED_START, Phase.LOST):
        return True
    if w.phase is Phase.EXITED:
        return w.exit_code != 0
    return not w.terminal and (w.start_failures > 0 or (w.phase is Phase.LAUNCHING and w.reason is not None))


def _pending(w: Workload, now: datetime, around: Circumstances) -> str:
    last = f" after: {w.reason}" if w.reason else ""
    if w.desired is Desired.STOP:
        return f"is to be cancelled: {w.desired_reason or 'not wanted any more'}"
    if not around.leading:
        return "waits for a daemon: none leads"
    if around.held:
        return f"launches are held: {around.held}"
    if w.not_before is not None and w.not_before > now:
        return f"waits {duration(w.not_before - now)} before attempt {w.attempt + 1}{last}"
    if around.headroom == 0:
        return f"waits for a free slot{last}"
    return f"waits for its launch, or for its predecessor's container to end{last}"


def _for(now: datetime, since: datetime | None) -> str:
    return duration(now - since) if since else "an unknown time"


def duration(delta: timedelta) -> str:
    """`42 s`, `7 min 3 s`, `2 h 5 min`."""
    seconds = max(0, round(delta.total_seconds()))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
