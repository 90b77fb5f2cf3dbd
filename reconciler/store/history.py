"""What happened to workloads, one line each, as the table remembers it. Bounded, and reads only.

The table keeps the present of each workload and the log of its launches. So what is told here are the moments that
these two hold; what a row was between them is not kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import select

from reconciler.core.phase import Desired, Phase
from reconciler.core.why import duration, is_problem, why
from reconciler.store.engine import translated
from reconciler.store.inspect import Attempt
from reconciler.store.listing import MOST, listing
from reconciler.store.rows import among, batches
from reconciler.store.schema import attempts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from sqlalchemy import Engine

    from reconciler.core.task import Workload
    from reconciler.store.listing import Wanted

__all__ = ["Event", "history"]


@dataclass(frozen=True, slots=True)
class Event:
    """One moment of one workload."""

    at: datetime
    workload: Workload
    attempt: int
    """0: before the first launch, or about no launch."""
    phase: Phase
    """What it was then."""
    what: str
    """In words."""
    problem: bool = False
    task_arn: str | None = None


_ATTEMPTS: Final = (
    select(attempts.c.exec_id, *(attempts.c[name] for name in Attempt.__slots__))
    .where(among(attempts.c.exec_id, "ids"))
    .order_by(attempts.c.exec_id, attempts.c.attempt)
)
_ORDER: Final = {phase: number for number, phase in enumerate(Phase)}


def history(engine: Engine, deployment: str, wanted: Wanted) -> list[Event]:
    """The last `wanted.limit` moments of the workloads that changed last, the newest last. Raises StoreUnavailable."""
    # A moment in the wanted phase may be of a workload in another, so that as many as possible are searched for one.
    changed = replace(wanted, phase=None, limit=MOST if wanted.phase else wanted.limit)
    found = listing(engine, deployment, changed, problems_first=False).workloads
    launches: dict[str, list[Attempt]] = {}
    with translated(), engine.connect() as conn:
        for ids in batches([w.exec_id for w in found]):
            for exec_id, *row in conn.execute(_ATTEMPTS, {"ids": ids}):
                launches.setdefault(exec_id, []).append(Attempt(*row))
    events = [event for w in found for event in _events(w, launches.get(w.exec_id, []))]
    if wanted.phase:
        events = [event for event in events if event.phase is wanted.phase]
    events.sort(key=lambda event: (event.at, event.workload.exec_id, event.attempt, _ORDER[event.phase]))
    return events[-max(1, wanted.limit) :]


def _events(w: Workload, launches: Sequence[Attempt]) -> Iterator[Event]:
    if w.created_at:
        yield Event(w.created_at, w, 0, Phase.PENDING, f"queued in {w.queue}")
    for launch in launches:
        yield from _of_launch(w, launch, last=launch is launches[-1])
    if w.desired is Desired.STOP and w.desired_at:
        phase = Phase.STOPPING if w.attempt else Phase.PENDING
        yield Event(w.desired_at, w, w.attempt, phase, f"is to end: {w.desired_reason or 'not wanted any more'}")
    if w.terminal and w.updated_at and not (launches and launches[-1].closed_at):
        yield Event(w.updated_at, w, w.attempt, w.phase, why(w, w.updated_at), is_problem(w), w.task_arn)


def _of_launch(w: Workload, launch: Attempt, *, last: bool) -> Iterator[Event]:
    def told(at: datetime, phase: Phase, what: str, **more: Any) -> Event:
        return Event(at, w, launch.attempt, phase, what, task_arn=launch.task_arn, **more)

    accepted = f", ECS task {launch.task_arn.rsplit('/', 1)[-1]}" if launch.task_arn else ""
    waited = f" {duration(launch.intent_at - w.created_at)} after it was queued" if w.created_at else ""
    yield told(launch.intent_at, Phase.LAUNCHING, f"to be launched{waited}{accepted}")
    if last and w.started_at and w.phase is not Phase.PENDING:
        yield told(w.started_at, Phase.RUNNING, f"runs, {duration(w.started_at - launch.intent_at)} after its intent")
    if launch.closed_at is None:
        return
    word, _, reason = (launch.verdict or "").partition(": ")
    phase = Phase(word) if word in Phase.__members__ else w.phase
    if phase is Phase.PENDING:
        yield told(launch.closed_at, phase, f"did not start, will be tried again: {reason}", problem=True)
    elif last and w.terminal:
        yield told(launch.closed_at, phase, why(w, launch.closed_at), problem=is_problem(w))
    else:
        yield told(launch.closed_at, phase, reason, problem=phase is not Phase.EXITED)
