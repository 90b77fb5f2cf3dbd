"""What a scheduler does about a terminal workload: tell Airflow, try again, wait, or forget it.

Airflow drops events for rows that are locked, so emitted is not delivered: a verdict is made anew at each heartbeat
from the task instance itself, and a workload is acknowledged only when there is nothing left to tell.
Source: airflow/jobs/scheduler_job_runner.py, process_executor_events.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from reconciler.core.phase import Desired, Phase

if TYPE_CHECKING:
    from datetime import datetime

    from reconciler.core.task import Workload

__all__ = ["Acknowledge", "CallbackView", "Fail", "Refuse", "Succeed", "TaskInstanceView", "Verdict", "Wait"]
__all__ += ["deliver_callback", "deliver_task"]

SILENCE: Final = timedelta(seconds=60)
"""How long a RUNNING task instance must have been silent before a LOST container is believed to be gone."""


@dataclass(frozen=True, slots=True)
class TaskInstanceView:
    """What the metadata database says of a task instance, found by its natural key. Times are the database's."""

    id: str
    state: str | None
    try_number: int
    external_executor_id: str | None
    queued_by_job_id: int | None = None
    last_heartbeat_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class CallbackView:
    """What the metadata database says of a callback."""

    state: str


@dataclass(frozen=True, slots=True)
class Fail:
    """Emit FAILED with this text, which Airflow shows to the user as "Extra info"."""

    info: str


@dataclass(frozen=True, slots=True)
class Succeed:
    """Emit SUCCESS. For a RESTARTING task instance it means "has ended, schedule it again"."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """Mark the workload refused: Airflow never admitted its container, so the daemon may launch it again."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Not to be judged yet."""

    why: str


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Nothing is left to tell."""

    why: str


Verdict = Fail | Succeed | Refuse | Wait | Acknowledge


def deliver_task(
    w: Workload, ti: TaskInstanceView | None, now: datetime, *, max_run_task_attempts: int, newest: bool
) -> Verdict:
    """The verdict about a terminal workload of a task instance. `newest`: no later workload has this key.

    SUCCESS is emitted for RESTARTING and for nothing else: should the DAG not load, Airflow writes the event's state
    into the task instance as it stands, and a wrong SUCCESS would be a silent loss.
    """
    if ti is None:
        return Acknowledge("the task instance is gone")
    if ti.state == "restarting" and ti.try_number == w.key.try_number and newest:
        return Succeed()
    if ti.state not in ("queued", "running") or ti.external_executor_id != w.exec_id:
        return Acknowledge(f"the task instance is {ti.state or 'not scheduled'}")
    if ti.state == "running":
        return _running(w, ti, now)
    if w.phase is Phase.EXITED and w.desired is Desired.RUN:
        if w.refused:
            return Wait("to be launched again")
        if w.start_failures + 1 < max_run_task_attempts:
            return Refuse()
    return Fail(explain(w))


def _running(w: Workload, ti: TaskInstanceView, now: datetime) -> Verdict:
    """A RUNNING task instance whose container has ended, unless its heartbeat says otherwise."""
    ended = w.stopped_at or w.updated_at or now
    if ti.last_heartbeat_at is not None and ti.last_heartbeat_at > ended:
        return Wait("the task instance has a heartbeat from after the container's end")
    if w.phase is Phase.LOST and ti.last_heartbeat_at is not None and now - ti.last_heartbeat_at < SILENCE:
        return Wait("the lost container may be alive")
    return Fail(explain(w))


def deliver_callback(w: Workload, callback: CallbackView | None) -> Verdict:
    """The verdict about a terminal workload of a callback. Here the exit code is the outcome."""
    if callback is None:
        return Acknowledge("the callback is gone")
    if callback.state in ("success", "failed"):
        return Acknowledge(f"the callback is {callback.state}")
    if w.phase is Phase.EXITED and w.exit_code == 0:
        return Succeed()
    return Fail(explain(w))


def explain(w: Workload) -> str:
    """Why a workload ended, in one sentence for the person who finds it in Airflow's UI."""
    what = {
        Phase.EXITED: "The ECS container ended without reporting a result",
        Phase.FAILED_START: "The ECS container could not be started",
        Phase.CANCELLED: "The launch was cancelled",
        Phase.LOST: "What became of the ECS container can not be known",
    }[w.phase]
    code = "" if w.exit_code is None else f", exit code {w.exit_code}"
    attempts = f", after {w.attempt} attempts" if w.attempt > 1 else ""
    arn = f" ({w.task_arn})" if w.task_arn else ""
    return f"{what}{code}{attempts}: {w.reason or 'no reason was given'}{arn}"
