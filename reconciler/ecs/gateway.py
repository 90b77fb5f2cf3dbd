"""The `Ecs` seam on boto3: requests out, answers in the words of the core, and the limits of time and rate between."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

import structlog

from reconciler.core import identity, runtask
from reconciler.core.answer import Accepted, Answer, Invalid, Throttled, Unknown
from reconciler.core.errors import EcsThrottled, EcsUnavailable, NoSuchCluster
from reconciler.core.phase import Desired
from reconciler.ecs.errors import BOTO_ERRORS, CallFailedError, Meaning, TooLateError, classify, not_started
from reconciler.ecs.ratelimit import Call
from reconciler.ecs.shown import NO_TASK, arn_of, ecs_task
from reconciler.seams import Description

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from mypy_boto3_ecs import ECSClient
    from mypy_boto3_ecs.literals import DesiredStatusType

    from reconciler.core.task import EcsTask, Workload
    from reconciler.ecs.ratelimit import Limiter
    from reconciler.seams import Clock

__all__ = ["READERS", "Gateway"]

log = structlog.get_logger()

BATCH: Final = 100
"""How many tasks one DescribeTasks takes, and one page of ListTasks has at most."""
READERS: Final = 4
"""DescribeTasks calls at once when there is more than one batch."""

T = TypeVar("T")


@dataclass(slots=True)
class _Sending:
    """A call under way: not to be sent after `deadline` (monotonic seconds)."""

    deadline: float
    sent: bool = False


_SENDING: ContextVar[_Sending | None] = ContextVar("sending", default=None)
"""How the hook that botocore calls knows which call it is about: each thread has one at a time."""


class Gateway:
    """Implements `seams.Ecs`. Thread safe. `close` it at the end.

    `now` is the database's clock, which the age of an intent is counted by. RunTask is not sent once that age is
    `resend_for`: a process that pauses may wake when ECS has forgotten the token, and would start a second task.
    `on_call` hears of each call: operation, result, seconds. Results are ok, throttled, client_error, server_error,
    timeout, network, credentials.
    """

    def __init__(
        self,
        client: ECSClient,
        limiter: Limiter,
        clock: Clock,
        *,
        deployment: str,
        now: Callable[[], datetime],
        resend_for: timedelta,
        on_call: Callable[[str, str, float], None],
    ) -> None:
        self._client, self._limiter, self._clock = client, limiter, clock
        self._deployment, self._now, self._resend_for = deployment, now, resend_for
        self._on_call = on_call
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="ecs-read")
        # Last of all hooks, and after signing, which may have waited for new credentials.
        client.meta.events.register_last("before-send.ecs", self._before_send)

    def close(self) -> None:
        """End the threads and connections. No call may be under way."""
        self._client.meta.events.unregister("before-send.ecs", self._before_send)
        self._readers.shutdown()
        self._client.close()

    def run(self, workload: Workload, command: Sequence[str]) -> Answer:
        """RunTask with this launch's token. Raises what `now` raises, nothing else: then nothing was sent.

        What is not wanted any more is only asked for, by its token: if ECS has made no task for it yet, that task must
        not run, because Airflow may have queued its task instance again and would admit the wrong container.
        """
        if workload.cluster is None or workload.params is None or workload.intent_at is None:
            raise ValueError(f"workload {workload.exec_id} has no intent to launch it")
        token = identity.client_token(workload.cluster, workload.exec_id, workload.attempt)
        name = identity.started_by(self._deployment, workload.exec_id, workload.attempt)
        try:
            begun = runtask.NOTHING if workload.desired is Desired.STOP else command
            request = _ordered(runtask.compose(workload.params, begun, token, name))
        except runtask.RequestRefusedError as error:
            return Invalid(str(error))
        # The local clock is read first: a pause before the other is read makes the deadline earlier, never later.
        began = self._clock.monotonic()
        left = (self._resend_for - (self._now() - workload.intent_at)).total_seconds()
        try:
            answer = self._call(
                Call.LAUNCH,
                "RunTask",
                lambda: self._client.run_task(**request),
                # The oldest intent first: what has been sent before is waited for more than what is new.
                order=workload.intent_at.timestamp(),
                deadline=began + left,
            )
        except EcsThrottled as error:
            return Throttled(str(error))
        except CallFailedError as failed:
            return failed.verdict.answer()
        if tasks := answer.get("tasks"):
            try:
                return Accepted(ecs_task(tasks[0]))
            except NO_TASK as error:
                return Unknown(f"RunTask's answer shows a task in a form that is not ECS's: {error!r}")
        if failures := answer.get("failures"):
            return not_started(failures)
        return Unknown("RunTask's answer names neither a task nor a failure")

    def describe(self, cluster: str, arns: Sequence[str]) -> Description:
        """DescribeTasks, in batches. A task that is neither shown nor MISSING is in neither part of the answer."""
        try:
            return self._describe(Call.SWEEP, cluster, arns)
        except NoSuchCluster:
            return Description(missing=frozenset(arns), no_cluster=True)

    def list_tasks(self, cluster: str, family: str, *, stopped: bool) -> Sequence[EcsTask]:
        """ListTasks, all pages, then DescribeTasks, because a listing shows ARNs only.

        By family: `startedBy` must be the only filter where it is used, and then finds running tasks only.
        """
        # In this order: a task that stops between the two listings is in both. The other way round it is in neither.
        arns = self._pages(cluster, family, "RUNNING")
        if stopped:
            arns += self._pages(cluster, family, "STOPPED")
        shown = self._describe(Call.LISTING, cluster, list(dict.fromkeys(arns)))
        if shown.unreadable:
            # That a listing does not show a launch settles it, so it shows all or it fails.
            raise EcsUnavailable(f"tasks are shown in a form that is not ECS's: {', '.join(shown.unreadable)}")
        return shown.tasks

    def stop(self, cluster: str, arn: str, reason: str) -> None:
        """StopTask. A task that ECS does not know any more has stopped: a cluster with tasks can not be deleted."""
        try:
            self._call(Call.STOP, "StopTask", lambda: self._client.stop_task(cluster=cluster, task=arn, reason=reason))
        except CallFailedError as failed:
            if not failed.verdict.task_is_gone:
                raise failed.verdict.error() from failed

    def describe_cluster(self, cluster: str) -> Mapping[str, Any] | None:
        """What ECS shows of a cluster, for checks at start-up. None: there is no such cluster."""
        answer = self._ask(Call.CHECK, "DescribeClusters", lambda: self._client.describe_clusters(clusters=[cluster]))
        return next(iter(_member(answer, "clusters")), None)

    def describe_task_definition(self, name: str) -> Mapping[str, Any] | None:
        """What ECS shows of a task definition, for checks at start-up. None: there is none of that name."""
        try:
            answer = self._call(
                Call.CHECK,
                "DescribeTaskDefinition",
                lambda: self._client.describe_task_definition(taskDefinition=name),
            )
        except CallFailedError as failed:
            if failed.verdict.meaning is Meaning.INVALID:  # "Unable to describe task definition."
                return None
            raise failed.verdict.error() from failed
        shown: Mapping[str, Any] = _member(answer, "taskDefinition")
        return shown

    def _pages(self, cluster: str, family: str, status: DesiredStatusType) -> list[str]:
        """The ARNs of all pages. A page may be short, or empty, and yet not be the last."""
        arns: list[str] = []
        more: dict[str, str] = {}
        while True:
            page = self._ask(
                Call.LISTING,
                "ListTasks",
                lambda more=more: self._client.list_tasks(  # type: ignore[misc] # mypy can not infer this lambda
                    cluster=cluster, family=family, desiredStatus=status, maxResults=BATCH, **more
                ),
            )
            arns += _member(page, "taskArns")
            if not page.get("nextToken"):
                return arns
            more = {"nextToken": page["nextToken"]}

    def _describe(self, call: Call, cluster: str, arns: Sequence[str]) -> Description:
        def send(batch: Sequence[str]) -> Description:
            # Read within the call: what is no answer of ECS's must count as a call that failed.
            return _described(self._client.describe_tasks(cluster=cluster, tasks=list(batch)))

        def describe(batch: Sequence[str]) -> Description:
            return self._ask(call, "DescribeTasks", lambda: send(batch))

        batches = [arns[first : first + BATCH] for first in range(0, len(arns), BATCH)]
        # One batch is the usual case, and needs no thread.
        answers = list(self._readers.map(describe, batches) if len(batches) > 1 else map(describe, batches))
        return Description(
            tasks=tuple(task for answer in answers for task in answer.tasks),
            missing=frozenset(arn for answer in answers for arn in answer.missing),
            unreadable=tuple(arn for answer in answers for arn in answer.unreadable),
        )

    def _ask(self, call: Call, operation: str, send: Callable[[], T]) -> T:
        """A call that may simply be repeated: its failure is an error of the core."""
        try:
            return self._call(call, operation, send)
        except CallFailedError as failed:
            raise failed.verdict.error() from failed

    def _call(
        self, call: Call, operation: str, send: Callable[[], T], *, order: float = 0.0, deadline: float = float("inf")
    ) -> T:
        """Wait for a turn, send, time and count. Raises CallFailedError, or EcsThrottled if the turn never came."""
        taken_at = self._limiter.take(call, order)
        sending = _Sending(deadline)
        before = _SENDING.set(sending)
        began = self._clock.monotonic()
        result = "ok"
        try:
            return send()
        except Exception as error:
            # An answer that is not ECS's may break botocore's parser in any way; an error before that is our own.
            if not (sending.sent or isinstance(error, (*BOTO_ERRORS, TooLateError))):
                raise
            verdict = classify(error, sent=sending.sent)
            result = verdict.result
            if verdict.meaning is Meaning.THROTTLED:
                self._limiter.refused(call, taken_at)
            raise CallFailedError(verdict) from error
        finally:
            _SENDING.reset(before)
            self._on_call(operation, result, self._clock.monotonic() - began)

    def _before_send(self, **_: Any) -> None:
        """Called by botocore in the thread of the call, after signing and right before the request is written.

        What is delayed after this point is stopped by the signature, which ECS accepts for five minutes.
        """
        sending = _SENDING.get()
        if sending is None:
            return
        if self._clock.monotonic() >= sending.deadline:
            raise TooLateError("RunTask was not sent: its intent is too old for its token to be used again")
        sending.sent = True


def _described(answer: Mapping[str, Any]) -> Description:
    """One answer of DescribeTasks. One task that can not be read does not keep the others from being seen; if none can,
    the answer is not ECS's. Raises what reading it raises."""
    tasks: list[EcsTask] = []
    unreadable: list[str] = []
    for task in _member(answer, "tasks"):
        try:
            tasks.append(ecs_task(task))
        except NO_TASK as error:
            unreadable.append(arn_of(task))
            if len(unreadable) == len(answer["tasks"]):
                raise
            _say(unreadable[-1], repr(error))
    return Description(
        tasks=tuple(tasks),
        missing=frozenset(
            failure["arn"]
            for failure in answer.get("failures", ())
            if failure.get("reason") == "MISSING" and "arn" in failure
        ),
        unreadable=tuple(unreadable),
    )


@lru_cache(maxsize=10_000)
def _say(arn: str, why: str) -> None:
    """Log it, once in the life of a process."""
    log.error("a task is shown in a form that is not ECS's, and stays as it was last seen", task_arn=arn, why=why)


def _ordered(value: Any) -> Any:
    """The same request with its members by name: ECS must see a repeated call as the same one, and the database may
    give them back in another order."""
    if isinstance(value, Mapping):
        return {name: _ordered(value[name]) for name in sorted(value)}
    if isinstance(value, list | tuple):
        return [_ordered(item) for item in value]
    return value


def _member(answer: Mapping[str, Any], name: str) -> Any:
    """A member that every such answer has. botocore reads a damaged body as an answer without members, and that must
    not pass for a cluster without tasks. Raises EcsUnavailable."""
    if name not in answer:
        raise EcsUnavailable(f"the answer of ECS has no {name!r}: it was damaged on its way")
    return answer[name]
