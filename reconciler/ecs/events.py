"""The `Events` seam on SQS: ECS's state changes as EventBridge puts them into a queue.

https://docs.aws.amazon.com/AmazonECS/latest/developerguide/ecs_task_events.html
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ReceiveMessage.html
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

import structlog

from reconciler.core.errors import EventsUnavailable
from reconciler.ecs.errors import classify, clean
from reconciler.ecs.shown import NO_TASK, ecs_task
from reconciler.seams import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from mypy_boto3_sqs import SQSClient

    from reconciler.core.task import EcsTask
    from reconciler.seams import Clock

__all__ = ["EventQueue", "read_event"]

log = structlog.get_logger()

BATCH: Final = 10
"""How many messages SQS gives, or deletes, in one call."""
WAIT: Final = 1
"""Seconds for which SQS waits for a first message. Less than the daemon has to end in, when it is told to."""
CALLS: Final = 8
"""So many calls at once, where more messages wait than one call gives."""
LARGEST: Final = 256 * 1024
"""Characters of a message that is read. EventBridge's events are smaller."""
BACKLOG: Final = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")

T = TypeVar("T")
U = TypeVar("U")


class EventQueue:
    """Implements `seams.Events`. `close` it at the end.

    `on_call` hears of each call, as the gateway's does: operation, result, seconds. `calls`: so many are made at once.
    """

    def __init__(
        self,
        client: SQSClient,
        url: str,
        clock: Clock,
        *,
        on_call: Callable[[str, str, float], None],
        calls: int = CALLS,
    ) -> None:
        self._client, self._url, self._clock, self._on_call = client, url, clock, on_call
        self._calls = calls
        self._callers = ThreadPoolExecutor(calls, thread_name_prefix="sqs")

    def close(self) -> None:
        """End the threads and connections."""
        self._callers.shutdown(wait=False)
        self._client.close()

    def receive(self) -> Sequence[Event]:
        """One long poll, and if that is full what else waits."""
        first = self._receive(WAIT)
        if len(first) < BATCH:
            return first
        more = self._at_once(self._receive_more, range(self._calls))
        return [*first, *(event for events in more for event in events)]

    def delete(self, receipts: Sequence[str]) -> None:
        """DeleteMessageBatch, ten at a time."""
        batches = [receipts[start : start + BATCH] for start in range(0, len(receipts), BATCH)]
        refused = [why for reasons in self._at_once(self._delete, batches) for why in reasons]
        if refused:
            raise EventsUnavailable(f"SQS did not delete {len(refused)} messages, such as for {refused[0]}")

    def backlog(self) -> int:
        answer = self._call(
            "GetQueueAttributes",
            lambda: self._client.get_queue_attributes(QueueUrl=self._url, AttributeNames=list(BACKLOG)),
        )
        return sum(int(answer["Attributes"].get(name, 0)) for name in BACKLOG)

    def _at_once(self, call: Callable[[U], list[T]], items: Sequence[U]) -> Iterable[list[T]]:
        """What each call gives. One is the usual case, and needs no thread."""
        return self._callers.map(call, items) if min(self._calls, len(items)) > 1 else map(call, items)

    def _receive(self, wait: int) -> list[Event]:
        answer = self._call(
            "ReceiveMessage",
            lambda: self._client.receive_message(QueueUrl=self._url, MaxNumberOfMessages=BATCH, WaitTimeSeconds=wait),
        )
        return [_event(message) for message in answer.get("Messages", ())]

    def _receive_more(self, _: int) -> list[Event]:
        """What else waits. A failure, which is counted, must not lose what the other calls have received."""
        try:
            return self._receive(0)
        except EventsUnavailable:
            return []

    def _delete(self, receipts: Sequence[str]) -> list[str]:
        """Delete at most ten. Returns why some could not be."""
        entries = [{"Id": str(number), "ReceiptHandle": receipt} for number, receipt in enumerate(receipts)]
        answer = self._call(
            "DeleteMessageBatch",
            lambda: self._client.delete_message_batch(QueueUrl=self._url, Entries=entries),  # type: ignore[arg-type] # plain dicts
        )
        return [failed.get("Code", "no reason given") for failed in answer.get("Failed", ())]

    def _call(self, operation: str, send: Callable[[], T]) -> T:
        """Send, time and count. Raises EventsUnavailable."""
        began, result = self._clock.monotonic(), "ok"
        try:
            return send()
        except Exception as error:  # an answer that is not SQS's may break botocore's parser in any way
            result = classify(error, sent=True).result
            raise EventsUnavailable(f"{operation} of {self._url}: {clean(str(error))}") from error
        finally:
            self._on_call(operation, result, self._clock.monotonic() - began)


def _event(message: Mapping[str, Any]) -> Event:
    """A message as it is, or what is wrong with it. That is said without its contents: they may hold secrets."""
    receipt = message["ReceiptHandle"]
    try:
        task, at = read_event(message.get("Body", ""))
    except ValueError as error:
        _say(message.get("MessageId", "?"), str(error))
        return Event(receipt, flaw=str(error))
    return Event(receipt, task, at)


@lru_cache(maxsize=10_000)
def _say(message_id: str, why: str) -> None:
    """Log it, once in the life of a process."""
    log.warning("a message in the queue of events can not be read and is deleted", message_id=message_id, why=why)


def read_event(body: str) -> tuple[EcsTask | None, datetime | None]:
    """The task that an event shows and when it was so, or (None, None) if it is about something else.

    Raises ValueError, which says nothing of the contents.
    """
    if len(body) > LARGEST:
        raise ValueError(f"it is longer than {LARGEST} characters")
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(event, dict):
        raise ValueError("it is not an event of EventBridge")  # noqa: TRY004 - of the text, not of the caller
    if event.get("source") != "aws.ecs" or event.get("detail-type") != "ECS Task State Change":
        return None, None
    try:
        detail = event["detail"]
        task = ecs_task(detail)
        at = datetime.fromisoformat(detail.get("updatedAt") or event["time"]).astimezone(UTC)
    except (*NO_TASK, KeyError):
        raise ValueError("it does not have the shape of a task's state change") from None
    return task, at
