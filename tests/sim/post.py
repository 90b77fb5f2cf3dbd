"""EventBridge and its queue: what becomes of an event on its way, and what the trace is told when one is deleted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError

from reconciler.localecs import AwsError, Settings, SqsModel
from tests.sim.aws import short
from tests.world import CLUSTER

if TYPE_CHECKING:
    import random

    from tests.sim.aws import Aws
    from tests.sim.engine import Process, Sim
    from tests.sim.plan import Mail

QUEUE: Final = "airflow-events"
HAPPENED: Final = ("lost_after", "fails_after")
"""What the weather does to a call after its effect."""


class Post:
    """A queue that gets the events of one cluster. In a healed world each comes at once."""

    def __init__(self, sim: Sim, settings: Settings, chance: random.Random, mail: Mail, now: float) -> None:
        self.sim, self.chance, self.mail = sim, chance, mail
        self.sqs = SqsModel(settings, chance)
        self.sqs.call("CreateQueue", {"QueueName": QUEUE}, now)
        self.received: dict[str, tuple[str, int]] = {}
        """The task and the version that a message tells, by receipt."""

    @property
    def down(self) -> bool:
        """Nobody reaches the queue."""
        begins, lasts = self.mail.outage
        return not self.sim.healed and begins <= self.sim.now < begins + lasts

    def take(self, events: list[dict[str, Any]], now: float) -> None:
        """Events are on their way."""
        for event in events:
            if not event["detail"]["clusterArn"].endswith(f"/{CLUSTER}"):
                continue
            copies, delay = 1, 0.0
            if not self.sim.healed:
                copies = 0 if self.chance.random() < self.mail.lost else 1 + (self.chance.random() < self.mail.twice)
                late = self.chance.random() < self.mail.late
                delay = self.chance.random() * (self.mail.hours * 3600 if late else self.mail.spread)
            self.sqs.faults.on_delivery(copies=copies, delay=delay, spread=delay)
            self.sqs.deliver(QUEUE, event, now)
            self.sim.at(self.sim.now + delay, self.sim.happen)


class QueueClient:
    """What the queue's reader needs of a boto3 client, with the same weather as ECS's."""

    def __init__(self, post: Post, aws: Aws, process: Process) -> None:
        self._post, self._aws, self._process = post, aws, process

    def close(self) -> None: ...

    def receive_message(self, **request: Any) -> Any:
        answer = self._call("ReceiveMessage", request)
        for message in answer.get("Messages", ()):
            detail = json.loads(message["Body"])["detail"]
            self._post.received[message["ReceiptHandle"]] = (short(detail["taskArn"]), detail["version"])
        return answer

    def delete_message_batch(self, **request: Any) -> Any:
        return self._call("DeleteMessageBatch", request)

    def _call(self, operation: str, request: dict[str, Any]) -> Any:
        post, process = self._post, self._process
        process.seam(f"{operation}: on the wire")
        mode = "unreachable" if post.down else self._aws.weather.mode(operation, self._aws.sim.chance)
        if mode not in ("works", "stale", *HAPPENED):
            raise EndpointConnectionError(endpoint_url="model")
        try:
            answer = post.sqs.call(operation, request, self._aws.now)
        except AwsError as error:
            body: Any = {"Error": {"Code": error.code, "Message": error.message}}
            raise ClientError(body, operation) from error
        for entry in request.get("Entries", ()):
            arn, version = post.received[entry["ReceiptHandle"]]
            post.sim.note("mail_deleted", who=process.name, arn=arn, version=version)
        process.seam(f"{operation}: answered")
        if mode in HAPPENED:
            raise ReadTimeoutError(endpoint_url="model")
        return answer
