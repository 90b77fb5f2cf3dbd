"""One standard queue of SQS: which messages it holds, who may have them when, and where they end.

    sent > (delayed) > visible > in flight > visible again > ... > deleted, expired, or in the dead-letter queue

At least once: a message that nobody deletes comes again when its visibility timeout ends, with a new receipt handle.
Source: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/standard-queues.html
"""

from __future__ import annotations

import base64
import binascii
import heapq
from dataclasses import dataclass
from itertools import count
from math import inf

from reconciler.localecs.attributes import DEFAULTS

__all__ = ["Handle", "Message", "Queue"]


@dataclass(eq=False)
class Message:
    """`sent_at` may be in the future: then it is on its way. `due` is when it can next be received.

    `came_from` is the ARN of the queue that gave it up, in a dead-letter queue.
    """

    message_id: str
    body: str
    sent_at: float
    due: float
    receives: int = 0
    first_received_at: float | None = None
    received_at: float = 0.0
    came_from: str | None = None


@dataclass(frozen=True)
class Handle:
    """A receipt handle: the `receive`-th receipt of a message of a queue."""

    queue: str
    message_id: str
    receive: int

    def encoded(self) -> str:
        """As a client gets it."""
        return base64.b64encode(f"{self.queue}/{self.message_id}/{self.receive}".encode()).decode()

    @classmethod
    def decoded(cls, text: str) -> Handle | None:
        """None for a text that is no handle of anything."""
        try:
            queue, message_id, receive = base64.b64decode(text, validate=True).decode().split("/")
            return cls(queue, message_id, int(receive))
        except (binascii.Error, ValueError):
            return None


class Queue:
    """`attributes` are those that can be set, as SQS shows them. Times are epoch seconds."""

    def __init__(self, name: str, arn: str, now: float) -> None:
        self.name = name
        self.arn = arn
        self.created_at = self.modified_at = now
        self.attributes = dict(DEFAULTS)
        self.dead_letters: Queue | None = None
        self.max_receives = 0
        self.ends = {"deleted": 0, "expired": 0, "given_up": 0}
        self._messages: dict[str, Message] = {}
        self._due: list[tuple[float, int, Message]] = []  # an entry whose time is not the message's `due` is stale
        self._pushed = count()

    def seconds(self, attribute: str) -> int:
        """An attribute that is a number."""
        return int(self.attributes[attribute])

    def put(self, message: Message) -> None:
        """Take in a message, which can be received when it is due."""
        self._messages[message.message_id] = message
        self.wait(message, message.due)

    def wait(self, message: Message, due: float) -> None:
        """Make a message come (again) at this time."""
        message.due = due
        heapq.heappush(self._due, (due, next(self._pushed), message))

    def ready_at(self) -> float | None:
        """When the next message can be received: in the past if one can now, None if there is none."""
        while self._due and self._is_stale(*self._due[0]):
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def receive(self, limit: int, visibility_timeout: float, now: float) -> list[Message]:
        """Up to `limit` messages, which are now in flight. What is too old or too often received goes its way."""
        received: list[Message] = []
        while len(received) < limit and (at := self.ready_at()) is not None and at <= now:
            _, _, message = heapq.heappop(self._due)
            if self._is_old(message, now):
                self._end(message, "expired")
            elif self.dead_letters is not None and message.receives >= self.max_receives:
                self._give_up(message, self.dead_letters, now)
            else:
                message.receives += 1
                message.received_at = now
                message.first_received_at = message.first_received_at or now
                message.due = inf  # a timeout of 0 makes it visible at once, but never twice in one answer
                received.append(message)
        for message in received:
            self.wait(message, now + visibility_timeout)
        return received

    def delete(self, handle: Handle) -> None:
        """Delete the message, if it is still there. With an old handle it stays, as SQS reserves the right to."""
        message = self._messages.get(handle.message_id)
        if message is not None and message.receives == handle.receive:
            self._end(message, "deleted")

    def in_flight(self, handle: Handle, now: float) -> Message | None:
        """The message whose last receipt this is, while its visibility timeout runs."""
        message = self._messages.get(handle.message_id)
        return message if message is not None and message.receives == handle.receive and message.due > now else None

    def counts(self, now: float) -> dict[str, int]:
        """Messages that can be received, that are in flight, and whose delay still runs."""
        for message in [message for message in self._messages.values() if self._is_old(message, now)]:
            self._end(message, "expired")
        there = [message for message in self._messages.values() if message.sent_at <= now]
        waiting = [message for message in there if message.due > now]
        in_flight = sum(message.receives > 0 for message in waiting)
        return {"visible": len(there) - len(waiting), "in_flight": in_flight, "delayed": len(waiting) - in_flight}

    def _is_old(self, message: Message, now: float) -> bool:
        return now >= message.sent_at + self.seconds("MessageRetentionPeriod")

    def _is_stale(self, due: float, _pushed: int, message: Message) -> bool:
        return due != message.due or self._messages.get(message.message_id) is not message

    def _end(self, message: Message, how: str) -> None:
        del self._messages[message.message_id]
        self.ends[how] += 1

    def _give_up(self, message: Message, dead_letters: Queue, now: float) -> None:
        """It keeps its age there, and the number of its receipts."""
        self._end(message, "given_up")
        message.due, message.came_from = now, self.arn
        dead_letters.put(message)
