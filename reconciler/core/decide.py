"""Every decision of the daemon about one workload: what was read goes in, the row's next value comes out.

None means "nothing to change". No function here acts; the controllers write what is returned, by compare-and-swap.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, assert_never

from reconciler.core import backoff, identity
from reconciler.core.answer import Accepted, Answer, Blocked, Existing, Invalid, NotStarted, Throttled, Unknown
from reconciler.core.phase import Desired, Phase

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from reconciler.core.runtask import Profile
    from reconciler.core.task import EcsTask, Workload

__all__ = [
    "Policy",
    "absent",
    "adopted",
    "answered",
    "cancelled",
    "heard",
    "intended",
    "invalid",
    "late",
    "may_resend",
    "missing",
    "observed",
    "refused",
    "start_failed",
    "stopping",
    "unproven",
    "unwanted",
    "withdrawn",
]


@dataclass(frozen=True, slots=True)
class Policy:
    """The limits that decisions lean on. Ages run from the intent, by the database's clock."""

    max_run_task_attempts: int = 3
    """How many failed starts fail a workload."""
    resend_for: timedelta = timedelta(minutes=20)
    """How long the same client token may be sent again.

    ECS forgets a token one hour after a short task stopped, so a repeat after that starts a second task. USE CAUTION:
    this, plus the five minutes for which a signed request stays valid, must stay far below one hour.
    """
    close_after: timedelta = timedelta(minutes=2)
    """How long a launch is sent again for which every answer proves that nothing was started. Then it waits like any
    other, so that the shim can give it back before Airflow calls it stuck in QUEUED."""
    absent_after: timedelta = timedelta(minutes=40)
    """From this age on, a task that a listing does not show was never made: no signed request is on its way any more,
    and ECS's eventual consistency (up to five minutes) is over."""
    absent_before: timedelta = timedelta(minutes=58)
    """Up to this age: ECS shows stopped tasks for at least one hour, so later a listing proves nothing."""
    missing_grace: timedelta = timedelta(minutes=5)
    """How long DescribeTasks may answer MISSING, at every look, without meaning anything."""
    stop_grace: timedelta = timedelta(seconds=140)
    """How long a container that Airflow admitted may end itself before it is stopped: it reports its state first and
    uploads its logs last. Airflow's `task_success_overtime` plus 120 s."""


def intended(
    w: Workload,
    now: datetime,
    *,
    profile: Profile,
    family: str,
    params: Mapping[str, Any],
    logs: Mapping[str, str] | None = None,
    cpu: int = 0,
) -> Workload:
    """The intent: from here on a task may exist. Must be committed before RunTask is called."""
    return w.moved(
        Phase.LAUNCHING,
        now,
        attempt=w.attempt + 1,
        intent_at=now,
        not_before=None,
        profile=profile.name,
        shard=profile.shard,
        cluster=profile.cluster,
        family=family,
        params=params,
        logs=logs,
        cpu=cpu,
        task_arn=None,
        ecs_version=0,
        last_status=None,
        started_at=None,
        stopped_at=None,
        exit_code=None,
        stop_code=None,
        reason=None,
    )


def invalid(w: Workload, now: datetime, reason: str) -> Workload:
    """A workload that can never be launched as it is. Known before the intent."""
    return w.moved(Phase.FAILED_START, now, reason=reason)


def may_resend(w: Workload, now: datetime, policy: Policy) -> bool:
    """Whether the same token may still be sent for this LAUNCHING workload."""
    return w.intent_at is not None and now - w.intent_at < policy.resend_for


def answered(w: Workload, answer: Answer, now: datetime, policy: Policy, *, certain: bool) -> Workload | None:
    """What RunTask's answer makes of a LAUNCHING workload.

    `certain`: every earlier call of this attempt is known to have done nothing. Only then does a refusal prove that
    nothing was started: a refused repeat says nothing about the call before it.
    """
    match answer:
        case Accepted(task):
            return adopted(w, task.arn, now)
        case Existing(arns):
            return adopted(w, arns[0], now) if arns else None
        case NotStarted(reason, capacity):
            return _not_started(w, now, policy, reason, counts=not capacity)
        case Blocked(reason):
            return _not_started(w, now, policy, reason, counts=False) if certain else None
        case Invalid(reason):
            return w.moved(Phase.FAILED_START, now, reason=reason) if certain else None
        case Throttled() | Unknown():
            return None
        case _:
            assert_never(answer)


def adopted(w: Workload, arn: str, now: datetime) -> Workload:
    """The task of this launch is known now: from an answer, a conflict or a listing."""
    return w.moved(Phase.STARTED, now, task_arn=arn, reason=None)


def absent(w: Workload, began: datetime, ended: datetime, policy: Policy) -> Workload | None:
    """What a LAUNCHING workload becomes that a listing, made between `began` and `ended`, does not show.

    Absence is judged as of the moment the listing began: a process that pauses between listing and reading would
    otherwise declare a healthy new task lost and start its twin.
    """
    if w.intent_at is None or began - w.intent_at < policy.absent_after:
        return None
    if ended - w.intent_at < policy.absent_before:
        return _not_started(w, ended, policy, "RunTask was called, but ECS never made the task", counts=False)
    minutes = int((ended - w.intent_at).total_seconds() // 60)
    reason = (
        f"RunTask was called {minutes} minutes ago and its answer lost; ECS can not tell any more what became of it"
    )
    return w.moved(Phase.LOST, ended, reason=reason, stopped_at=ended)


def withdrawn(w: Workload, now: datetime) -> Workload | None:
    """A LAUNCHING workload that is not wanted any more, and whose every call is known to have started nothing."""
    return w.moved(Phase.CANCELLED, now, reason=w.desired_reason) if w.desired is Desired.STOP else None


def unproven(w: Workload, now: datetime, policy: Policy) -> Workload | None:
    """Close an attempt that was sent again and again, while every answer proved that nothing was started."""
    if w.intent_at is None or now - w.intent_at < policy.close_after:
        return None
    return _not_started(w, now, policy, w.reason or "ECS refused every call of this launch", counts=False)


def _not_started(w: Workload, now: datetime, policy: Policy, reason: str, *, counts: bool) -> Workload:
    """Nothing was started by this attempt, for certain: wait for another, or give up."""
    if w.desired is Desired.STOP:
        return w.moved(Phase.CANCELLED, now, reason=w.desired_reason or reason)
    return _again(w, now, policy, reason, counts=counts)


def _again(w: Workload, now: datetime, policy: Policy, reason: str, *, counts: bool) -> Workload:
    """Back to PENDING with a delay, or FAILED_START once the counted failures are used up."""
    failures = w.start_failures + counts
    if counts and failures >= policy.max_run_task_attempts:
        return w.moved(Phase.FAILED_START, now, start_failures=failures, reason=reason)
    wait = backoff.delay(failures if counts else w.attempt, identity.jitter(w.exec_id, w.attempt))
    return w.moved(Phase.PENDING, now, start_failures=failures, not_before=now + wait, reason=reason, refused=False)


def observed(w: Workload, task: EcsTask, now: datetime) -> Workload | None:
    """What ECS shows of a task makes of its row. Older news than the row has is no news.

    A failed start stays STARTED with its facts: whether it is tried again is the retry controller's decision.
    """
    if task.version < w.ecs_version or not w.in_flight or w.phase is Phase.LAUNCHING:
        return None
    container = task.container
    facts: dict[str, Any] = {
        "ecs_version": task.version,
        "last_status": task.last_status,
        "started_at": task.started_at or w.started_at,
        "stopped_at": task.stopped_at or w.stopped_at,
        "exit_code": container.exit_code if container and container.exit_code is not None else w.exit_code,
        "stop_code": task.stop_code or w.stop_code,
    }
    phase = w.phase
    if task.stopped:
        facts["reason"] = w.reason if w.phase is Phase.STOPPING and w.reason else task.why_stopped
        facts["stopped_at"] = facts["stopped_at"] or now
        phase = Phase.STARTED if w.phase is Phase.STARTED and task.never_started else Phase.EXITED
    elif w.phase is Phase.STARTED and (task.last_status == "RUNNING" or task.started_at is not None):
        phase = Phase.RUNNING
    unchanged = phase is w.phase and all(getattr(w, name) == value for name, value in facts.items())
    return None if unchanged else w.moved(phase, now, **facts)


def heard(w: Workload, task: EcsTask, attempt: int, now: datetime) -> Workload | None:
    """What an event makes of the row that its task names. None: it is no news, or not of what this row claims.

    A launch whose answer is not known is given its task: a name tells for good whose a task is, however late it is
    heard. That is one write, and what else the event tells is another.
    """
    if attempt != w.attempt or not w.in_flight:
        return None
    if w.phase is Phase.LAUNCHING:
        return adopted(w, task.arn, now) if identity.cluster_of(task.arn) == _name_of(w.cluster) else None
    # The same version again tells nothing, and how events write times must not make it look like a change.
    return observed(w, task, now) if task.arn == w.task_arn and task.version > w.ecs_version else None


def _name_of(cluster: str | None) -> str:
    """Of a cluster's name or ARN."""
    return (cluster or "").rsplit("/", 1)[-1]


def missing(w: Workload, since: datetime, now: datetime, policy: Policy) -> Workload | None:
    """What a workload becomes whose task DescribeTasks has answered MISSING at each look from `since` to `now`.

    Right after a launch ECS may not show a task yet, and the launch may be much younger than its intent; a stopped task
    is shown for at least an hour.
    """
    if now - since < policy.missing_grace:
        return None
    return w.moved(
        Phase.LOST, now, reason="ECS does not know the task any more; its outcome was never seen", stopped_at=now
    )


def start_failed(w: Workload, now: datetime, policy: Policy) -> Workload | None:
    """A task that ECS stopped before its container existed: launch again, or give up. No user code ran.

    That Spot took the host away counts against nobody.
    """
    if w.phase is not Phase.STARTED or w.last_status not in ("STOPPED", "DELETED"):
        return None
    reason = w.reason or "the container did not start"
    if w.desired is Desired.STOP:
        return w.moved(Phase.FAILED_START, now, reason=w.desired_reason or reason)
    return _again(w, now, policy, reason, counts=not w.interrupted)


def refused(w: Workload, now: datetime, *, counts: bool) -> Workload | None:
    """A container that exited before Airflow admitted it, as the shim has found. No user code ran, so launch again.

    The shim judges the budget; here the failure is only added to the count, unless Airflow's API server seems to be
    down.
    """
    if w.phase is not Phase.EXITED or not w.refused or w.desired is Desired.STOP:
        return None
    failures = w.start_failures + counts
    # Long enough, if it is not its fault, for the shim to give it back to Airflow before it is called stuck in QUEUED.
    wait = backoff.delay(w.attempt, identity.jitter(w.exec_id, w.attempt), base=4.0 if counts else 60.0)
    reason = f"attempt {w.attempt} exited before Airflow admitted it ({w.reason}); starting again"
    return w.moved(Phase.PENDING, now, start_failures=failures, not_before=now + wait, reason=reason, refused=False)


def cancelled(w: Workload, now: datetime) -> Workload | None:
    """A PENDING workload that is not wanted any more. Safe at once: without an intent no call can be under way."""
    if w.phase is not Phase.PENDING or w.desired is not Desired.STOP:
        return None
    return w.moved(Phase.CANCELLED, now, reason=w.desired_reason)


def unwanted(w: Workload, now: datetime, policy: Policy, *, may_run: bool) -> str | None:
    """Why the live task of a workload with desired STOP must be stopped now, or None while it may end itself.

    `may_run`: its container runs, or ECS does not show whether it does.
    """
    if w.desired is not Desired.STOP:
        return None
    # An admitted container ends itself when its heartbeat is refused; stopping it earlier cuts its last log lines.
    ends_itself = may_run and w.desired_at is not None and now - w.desired_at < policy.stop_grace
    return None if ends_itself else (w.desired_reason or "not wanted any more")


def late(w: Workload, now: datetime, start_timeout: timedelta) -> str | None:
    """Why a start takes too long. USE CAUTION: the row may be old, so look at the task before it is stopped."""
    if w.phase is not Phase.STARTED or w.intent_at is None or now - w.intent_at <= start_timeout:
        return None
    seconds = start_timeout.total_seconds()
    return f"not RUNNING within start_timeout ({seconds:.0f} s): {w.last_status or 'not seen'}"


def stopping(w: Workload, now: datetime, reason: str) -> Workload | None:
    """StopTask is about to be called."""
    return w.moved(Phase.STOPPING, now, reason=reason) if w.phase in (Phase.STARTED, Phase.RUNNING) else None
