"""SQS on a virtual clock: standard queues, and EventBridge's way into them. Pure, in the same way as `model`.

Errors have the codes that boto3 shows, which are those of SQS's old query protocol. Limits and wording are those of
the API reference: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_Operations.html
"""

from __future__ import annotations

import hashlib
import json
import re
from math import inf
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from reconciler.localecs.attributes import LIMITS as ATTRIBUTE_LIMITS
from reconciler.localecs.attributes import READ_ONLY, WITHOUT_LIMITS, bad_value, checked, redrive
from reconciler.localecs.errors import AwsError
from reconciler.localecs.faults import QueueFaults
from reconciler.localecs.queue import Handle, Message, Queue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from random import Random  # noqa: TID251 - the type; the instance is an argument

    from reconciler.localecs.events import Event
    from reconciler.localecs.settings import Settings

__all__ = ["SqsModel"]

MAX_BATCH: Final = 10
MAX_TIMEOUT: Final = 43200
QUEUE_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,80}")
ENTRY_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,80}")
PREFIX: Final = "AWS.SimpleQueueService."

Request = dict[str, Any]
Answer = dict[str, Any]


class SqsModel:
    """The standard queues of one account in one Region. Their URLs begin with `address`; a request may name any host.

    See `call` and `deliver`; the rest is for servers, tests and simulators.
    """

    def __init__(self, settings: Settings, rng: Random, address: str = "http://localhost") -> None:
        self.faults = QueueFaults()
        self._settings = settings
        self._rng = rng
        self._address = address
        self._queues: dict[str, Queue] = {}
        self._now = 0.0
        self._calls: dict[str, dict[str, int]] = {}
        self._operations: dict[str, Callable[[Request, float], Answer]] = {
            "CreateQueue": self._create_queue,
            "GetQueueUrl": self._get_queue_url,
            "GetQueueAttributes": self._get_queue_attributes,
            "SetQueueAttributes": self._set_queue_attributes,
            "SendMessage": self._send_message,
            "ReceiveMessage": self._receive_message,
            "DeleteMessage": self._delete_message,
            "DeleteMessageBatch": self._delete_message_batch,
            "ChangeMessageVisibility": self._change_message_visibility,
        }

    # -- driving the model -----------------------------------------------------------------------------------------

    def call(self, operation: str, request: Request, now: float) -> Answer:
        """Answer one API call at once; WaitTimeSeconds is for whoever has a clock, see `ready_at`.

        Members have AWS's names, `now` is in epoch seconds. Raises AwsError, and ResponseLost for an injected fault.
        """
        now = self._move_to(now)
        count = self._calls.setdefault(operation, {"answered": 0, "failed": 0})
        count["failed"] += 1
        if operation not in self._operations:
            raise AwsError("UnknownOperationException", f"The local SQS does not have the operation {operation}.")
        self.faults.check_call(operation, request, after_effect=False)
        answer = self._operations[operation](request, now)
        self.faults.check_call(operation, request, after_effect=True)
        count["failed"] -= 1
        count["answered"] += 1
        return answer

    def deliver(self, queue_name: str, event: Event, now: float) -> None:
        """Put an event into a queue, as a rule of EventBridge does. It meets faults of delivery, not those of calls."""
        queue = self._queues[queue_name]
        self._send(queue, {"QueueUrl": self.url(queue_name), "MessageBody": json.dumps(event)}, self._move_to(now), 0)

    def url(self, queue_name: str) -> str:
        """The URL of a queue, whether it exists or not."""
        return f"{self._address}/{self._settings.account_id}/{queue_name}"

    def arn(self, queue_name: str) -> str:
        """The ARN of a queue, whether it exists or not."""
        return f"arn:aws:sqs:{self._settings.region}:{self._settings.account_id}:{queue_name}"

    def wait_seconds(self, request: Request) -> int:
        """How long a ReceiveMessage may wait for a message: what it says, or else what its queue does."""
        queue = self._queues.get(_name(request["QueueUrl"]))
        return int(request.get("WaitTimeSeconds", queue.seconds("ReceiveMessageWaitTimeSeconds") if queue else 0))

    def ready_at(self, request: Request) -> float:
        """When it makes sense to carry a ReceiveMessage out: at once if it will fail, never if nothing is there."""
        if self.faults.find_call("ReceiveMessage", request, after_effect=False):
            return -inf
        try:
            self._check_receive(request)
        except AwsError:
            return -inf
        at = self._queue(request["QueueUrl"]).ready_at()
        return inf if at is None else at

    def stats(self) -> dict[str, Any]:
        """Counts since the start: calls by operation, and by queue what is there and what has left it, how."""
        return {
            "operations": {name: dict(count) for name, count in self._calls.items()},
            "queues": {queue.name: queue.counts(self._now) | queue.ends for queue in self._queues.values()},
        }

    def _move_to(self, now: float) -> float:
        self._now = max(self._now, now)
        return self._now

    # -- queues ----------------------------------------------------------------------------------------------------

    def _create_queue(self, request: Request, now: float) -> Answer:
        name, attributes = request["QueueName"], checked(request.get("Attributes", {}))
        if not QUEUE_NAME.fullmatch(name):
            reason = "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length"
            raise AwsError("InvalidParameterValue", reason)
        known = self._queues.get(name)
        if known is None:
            known = Queue(name, self.arn(name), now)
            self._set(known, attributes, now)
            self._queues[name] = known
        for attribute, value in attributes.items():
            if known.attributes.get(attribute) != value:
                said = "A queue already exists with the same name and a different value for attribute"
                raise AwsError("QueueAlreadyExists", f"{said} {attribute}")
        return {"QueueUrl": self.url(name)}

    def _get_queue_url(self, request: Request, _now: float) -> Answer:
        return {"QueueUrl": self.url(self._queue(request["QueueName"]).name)}

    def _get_queue_attributes(self, request: Request, now: float) -> Answer:
        queue = self._queue(request["QueueUrl"])
        counts = queue.counts(now)
        known = queue.attributes | {
            "ApproximateNumberOfMessages": str(counts["visible"]),
            "ApproximateNumberOfMessagesDelayed": str(counts["delayed"]),
            "ApproximateNumberOfMessagesNotVisible": str(counts["in_flight"]),
            "CreatedTimestamp": str(int(queue.created_at)),
            "LastModifiedTimestamp": str(int(queue.modified_at)),
            "QueueArn": queue.arn,
        }
        names = request.get("AttributeNames", [])
        for name in names:
            if name not in (*READ_ONLY, *ATTRIBUTE_LIMITS, *WITHOUT_LIMITS, "All"):
                raise AwsError("InvalidAttributeName", f"Unknown Attribute {name}.")
        found = {name: value for name, value in known.items() if name in names or "All" in names}
        return {"Attributes": found} if found else {}

    def _set_queue_attributes(self, request: Request, now: float) -> Answer:
        self._set(self._queue(request["QueueUrl"]), checked(request["Attributes"]), now)
        return {}

    def _set(self, queue: Queue, attributes: dict[str, str], now: float) -> None:
        policy = attributes.get("RedrivePolicy")
        if policy:
            arn, receives = redrive(policy)
            target = self._queues.get(arn.rpartition(":")[2])
            if target is None or target.arn != arn:
                raise bad_value("RedrivePolicy", policy, "Dead letter target does not exist.")
            queue.dead_letters, queue.max_receives = target, receives
        elif policy is not None:
            queue.dead_letters = None
        queue.attributes |= attributes
        # An empty policy takes the policy away.
        queue.attributes = {name: value for name, value in queue.attributes.items() if value}
        queue.modified_at = now

    def _queue(self, reference: str) -> Queue:
        queue = self._queues.get(_name(reference))
        if queue is None:
            raise AwsError(f"{PREFIX}NonExistentQueue", "The specified queue does not exist.")
        return queue

    # -- messages --------------------------------------------------------------------------------------------------

    def _send_message(self, request: Request, now: float) -> Answer:
        queue = self._queue(request["QueueUrl"])
        for name in ("MessageAttributes", "MessageSystemAttributes", "MessageGroupId", "MessageDeduplicationId"):
            if request.get(name):
                raise AwsError(f"{PREFIX}UnsupportedOperation", f"The local SQS does not have {name}.")
        body = request["MessageBody"].encode()
        if not body:
            raise AwsError("MissingParameter", "The request must contain the parameter MessageBody.")
        if len(body) > queue.seconds("MaximumMessageSize"):
            limit = queue.attributes["MaximumMessageSize"]
            said = f"One or more parameters are invalid. Reason: Message must be shorter than {limit} bytes."
            raise AwsError("InvalidParameterValue", said)
        delay = request.get("DelaySeconds", queue.seconds("DelaySeconds"))
        _within("DelaySeconds", delay, 0, 900, "DelaySeconds must be >= 0 and <= 900.")
        message_id = self._send(queue, request, now, delay)
        return {"MessageId": message_id, "MD5OfMessageBody": _md5(request["MessageBody"])}

    def _send(self, queue: Queue, request: Request, now: float, delay: float) -> str:
        rule = self.faults.delivery(request)
        message_id = self._new_id()
        for copy in range(rule.copies if rule else 1):
            late = rule.delay + rule.spread * self._rng.random() if rule and (rule.delay or rule.spread) else 0.0
            identity = message_id if copy == 0 else self._new_id()
            queue.put(Message(identity, request["MessageBody"], now + late, now + late + delay))
        return message_id

    def _new_id(self) -> str:
        return str(UUID(int=self._rng.getrandbits(128)))

    def _check_receive(self, request: Request) -> tuple[Queue, int, int]:
        """The queue, the number of messages and their visibility timeout."""
        queue = self._queue(request["QueueUrl"])
        limit = request.get("MaxNumberOfMessages", 1)
        timeout = request.get("VisibilityTimeout", queue.seconds("VisibilityTimeout"))
        _within("MaxNumberOfMessages", limit, 1, MAX_BATCH, "Must be between 1 and 10, if provided.")
        _within("VisibilityTimeout", timeout, 0, MAX_TIMEOUT, "Must be between 0 and 43200, if provided.")
        _within("WaitTimeSeconds", self.wait_seconds(request), 0, 20, "Must be >= 0 and <= 20, if provided.")
        return queue, limit, timeout

    def _receive_message(self, request: Request, now: float) -> Answer:
        queue, limit, timeout = self._check_receive(request)
        names = {*request.get("AttributeNames", ()), *request.get("MessageSystemAttributeNames", ())}
        messages = [self._shown(queue, message, names) for message in queue.receive(limit, timeout, now)]
        return {"Messages": messages} if messages else {}

    def _shown(self, queue: Queue, message: Message, names: set[str]) -> Answer:
        shown: Answer = {
            "MessageId": message.message_id,
            "ReceiptHandle": Handle(queue.name, message.message_id, message.receives).encoded(),
            "MD5OfBody": _md5(message.body),
            "Body": message.body,
        }
        known = {
            "SenderId": self._settings.account_id,
            "SentTimestamp": str(int(message.sent_at * 1000)),
            "ApproximateReceiveCount": str(message.receives),
            "ApproximateFirstReceiveTimestamp": str(int((message.first_received_at or 0) * 1000)),
        }
        if message.came_from:
            known["DeadLetterQueueSourceArn"] = message.came_from
        attributes = {name: value for name, value in known.items() if name in names or "All" in names}
        return shown | ({"Attributes": attributes} if attributes else {})

    def _delete_message(self, request: Request, _now: float) -> Answer:
        self._delete(self._queue(request["QueueUrl"]), request)
        return {}

    def _delete_message_batch(self, request: Request, _now: float) -> Answer:
        queue = self._queue(request["QueueUrl"])
        answer: Answer = {"Successful": [], "Failed": []}
        for entry in _entries(request["Entries"]):
            try:
                self._delete(queue, {"QueueUrl": request["QueueUrl"], **entry})
                answer["Successful"].append({"Id": entry["Id"]})
            except AwsError as error:
                failed = {"Id": entry["Id"], "SenderFault": True, "Code": error.code, "Message": error.message}
                answer["Failed"].append(failed)
        return answer

    def _delete(self, queue: Queue, request: Request) -> None:
        handle = _handle(queue, request["ReceiptHandle"])
        if not self.faults.survives(request):
            queue.delete(handle)

    def _change_message_visibility(self, request: Request, now: float) -> Answer:
        queue, timeout = self._queue(request["QueueUrl"]), request["VisibilityTimeout"]
        _within("VisibilityTimeout", timeout, 0, MAX_TIMEOUT, "Must be between 0 and 43200, if provided.")
        message = queue.in_flight(_handle(queue, request["ReceiptHandle"]), now)
        if message is None:
            reason = "Message does not exist or is not available for visibility timeout change."
            raise bad_value("ReceiptHandle", request["ReceiptHandle"], reason)
        if now + timeout - message.received_at > MAX_TIMEOUT:
            reason = f"Total VisibilityTimeout for the message is beyond the limit [{MAX_TIMEOUT} seconds]"
            raise bad_value("VisibilityTimeout", timeout, reason)
        queue.wait(message, now + timeout)
        return {}


def _name(reference: str) -> str:
    """The name in a queue's URL; a bare name is one."""
    return reference.rpartition("/")[2]


def _md5(body: str) -> str:
    return hashlib.md5(body.encode(), usedforsecurity=False).hexdigest()


def _within(name: str, value: int, low: int, high: int, reason: str) -> None:
    if not low <= value <= high:
        raise bad_value(name, value, reason)


def _handle(queue: Queue, text: str) -> Handle:
    handle = Handle.decoded(text)
    if handle is None or handle.queue != queue.name:
        said = f'The input receipt handle "{text}" is not a valid receipt handle.'
        raise AwsError("ReceiptHandleIsInvalid", said, 404)
    return handle


def _entries(entries: list[Request]) -> Iterable[Request]:
    if not entries:
        said = "There should be at least one DeleteMessageBatchRequestEntry in the request."
        raise AwsError(f"{PREFIX}EmptyBatchRequest", said)
    if len(entries) > MAX_BATCH:
        said = f"Maximum number of entries per request are {MAX_BATCH}. You have sent {len(entries)}."
        raise AwsError(f"{PREFIX}TooManyEntriesInBatchRequest", said)
    seen: set[str] = set()
    for entry in entries:
        if not ENTRY_ID.fullmatch(entry["Id"]):
            said = "A batch entry id can only contain alphanumeric characters, hyphens and underscores."
            raise AwsError(f"{PREFIX}InvalidBatchEntryId", f"{said} It can be at most 80 letters long.")
        if entry["Id"] in seen:
            raise AwsError(f"{PREFIX}BatchEntryIdsNotDistinct", f"Id {entry['Id']} repeated.")
        seen.add(entry["Id"])
    return entries
