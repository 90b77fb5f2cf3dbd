"""SQS behind the wire: a lock around the model, and the wait of a long poll, which holds it no longer than to look."""

from __future__ import annotations

import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from reconciler.localecs.shapes import Shapes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from reconciler.localecs.errors import AwsError
    from reconciler.localecs.events import Event
    from reconciler.localecs.sqs import SqsModel

__all__ = ["LocalSqs", "error_names"]

# How SQS names an error in JSON, where that is not its name in the query protocol, which boto3 shows.
NAMES: Final = {"AWS.SimpleQueueService.NonExistentQueue": "QueueDoesNotExist", "QueueAlreadyExists": "QueueNameExists"}


class LocalSqs:
    """`events_queue` names the queue that gets the events. Touch `model` only while holding `lock`."""

    def __init__(self, model: SqsModel, clock: Callable[[], float], events_queue: str | None) -> None:
        self.model = model
        self.lock = threading.Condition()
        self._clock = clock
        self._events_queue = events_queue
        self._stopping = False
        if events_queue is not None:
            self._create(events_queue)

    @cached_property
    def _shapes(self) -> Shapes:
        return Shapes("sqs", missing="MissingParameter")

    @property
    def events_queue_url(self) -> str | None:
        """Where a client gets the events, if they are sent."""
        return None if self._events_queue is None else self.model.url(self._events_queue)

    def call(self, operation: str, request: Any) -> dict[str, Any]:
        """What the handlers do with a request: check its types, wait for a message if it asks for that, ask the model.

        Raises AwsError and ResponseLost.
        """
        self._shapes.check_request(operation, request)
        with self.lock:
            if operation == "ReceiveMessage":
                self._wait(request)
            answer = self.model.call(operation, request, self._clock())
            self.lock.notify_all()  # a poll that waits may now have something
            return answer

    def deliver(self, events: Iterable[Event]) -> None:
        """Put events into their queue."""
        if self._events_queue is None:
            return
        with self.lock:
            for event in events:
                self.model.deliver(self._events_queue, event, self._clock())
            self.lock.notify_all()

    def stop(self) -> None:
        """End the polls that wait: each answers with what there is."""
        with self.lock:
            self._stopping = True
            self.lock.notify_all()

    def stats(self) -> dict[str, Any]:
        """The model's own figures."""
        with self.lock:
            return self.model.stats()

    def _wait(self, request: Any) -> None:
        end = self._clock() + self.model.wait_seconds(request)
        while not self._stopping and (now := self._clock()) < min(end, ready := self.model.ready_at(request)):
            self.lock.wait(min(end, ready) - now)

    def _create(self, name: str) -> None:
        """The queue and its dead-letter queue, as the CloudFormation template of `aws-setup` makes them."""
        now = self._clock()
        dead = f"{name}-dead-letter"
        self.model.call("CreateQueue", {"QueueName": dead, "Attributes": {"MessageRetentionPeriod": "1209600"}}, now)
        attributes = {
            "MessageRetentionPeriod": "3600",
            "ReceiveMessageWaitTimeSeconds": "20",
            "RedrivePolicy": f'{{"deadLetterTargetArn": "{self.model.arn(dead)}", "maxReceiveCount": 5}}',
        }
        self.model.call("CreateQueue", {"QueueName": name, "Attributes": attributes}, now)


def error_names(error: AwsError) -> tuple[str, str]:
    """An error in the body's `__type`, and in the header x-amzn-query-error, from which boto3 takes the code."""
    own = NAMES.get(error.code, error.code.removeprefix("AWS.SimpleQueueService."))
    fault = "Sender" if error.status < 500 else "Receiver"
    return f"com.amazonaws.sqs#{own}", f"{error.code};{fault}"
