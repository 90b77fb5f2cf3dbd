"""A model of ECS with a clock that the test turns. Every request and every answer is checked against botocore."""

from __future__ import annotations

import json
import random
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.localecs import AwsError, EcsModel, Effect, Settings, SignalContainer, SqsModel, StartContainer
from tests.localecs.conformance import answer_problems, known_error, request_problems

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FARGATE: dict[str, Any] = {
    "taskDefinition": "airflow-task",
    "launchType": "FARGATE",
    "networkConfiguration": {"awsvpcConfiguration": {"subnets": ["subnet-1"]}},
}

DEFINITION: dict[str, Any] = {
    "family": "airflow-task",
    "networkMode": "awsvpc",
    "requiresCompatibilities": ["FARGATE"],
    "cpu": "256",
    "memory": "512",
    "containerDefinitions": [{"name": "airflow", "image": "airflow:3", "command": ["true"]}],
}


class World:
    """The account, its clock and whoever runs the containers (the test)."""

    def __init__(self, settings: Settings | None = None, seed: int = 1, *, events: bool = False) -> None:
        self.model = EcsModel(settings or Settings.unthrottled(), random.Random(seed), events=events)
        self.now = 1_000_000.0
        self.effects: list[Effect] = []
        self.call("CreateCluster", clusterName="default")
        self.call("RegisterTaskDefinition", **DEFINITION)

    def call(self, operation: str, **request: Any) -> dict[str, Any]:
        """One API call with a request that boto3 would let through and an answer that boto3 would understand."""
        assert request_problems(operation, request) == ""
        return self.call_unchecked(operation, **request)

    def call_unchecked(self, operation: str, **request: Any) -> dict[str, Any]:
        """One API call whose request botocore itself would have stopped."""
        try:
            answer = self.model.call(operation, request, self.now)
        except AwsError as error:
            if not known_error(operation, error.code):
                pytest.fail(f"{operation} cannot answer {error.code}")
            raise
        assert answer_problems(operation, answer) == []
        return answer

    def run(self, **parameters: Any) -> dict[str, Any]:
        """RunTask on Fargate."""
        return self.call("RunTask", **{**FARGATE, **parameters})

    def launch(self, **parameters: Any) -> str:
        """RunTask of one task that must be placed; its ARN."""
        answer = self.run(**parameters)
        assert answer["failures"] == []
        [task] = answer["tasks"]
        return str(task["taskArn"])

    def describe(self, arn: str, **parameters: Any) -> dict[str, Any]:
        """The task as DescribeTasks shows it; it must be visible."""
        answer = self.call("DescribeTasks", tasks=[arn], **parameters)
        assert answer["failures"] == []
        return dict(answer["tasks"][0])

    def missing(self, arn: str, **parameters: Any) -> bool:
        """Whether DescribeTasks answers MISSING."""
        answer = self.call("DescribeTasks", tasks=[arn], **parameters)
        return [failure["reason"] for failure in answer["failures"]] == ["MISSING"] and not answer["tasks"]

    def listed(self, **parameters: Any) -> list[str]:
        """All pages of ListTasks."""
        arns: list[str] = []
        token: dict[str, str] = {}
        while True:
            answer = self.call("ListTasks", **parameters, **token)
            arns += answer["taskArns"]
            if "nextToken" not in answer:
                return arns
            token = {"nextToken": answer["nextToken"]}

    def wait(self, seconds: float) -> list[Effect]:
        """Let time pass in one jump; the effects of it."""
        self.now += seconds
        effects = self.model.advance(self.now)
        self.effects += effects
        return effects

    def settle(self, limit: float = 1e9) -> None:
        """Let time pass event by event until nothing happens by itself before `limit` seconds from now."""
        end = self.now + limit
        while (at := self.model.next_event_at()) is not None and at <= end:
            self.wait(max(0.0, at - self.now))

    def start(self, arn: str) -> None:
        """Let time pass until the task is RUNNING."""
        while not self.started(arn):
            at = self.model.next_event_at()
            assert at is not None, f"{arn} will never start"
            self.wait(at - self.now)

    def exit(self, arn: str, code: int = 0, container: str = "airflow") -> None:
        """End a container."""
        self.model.container_exited(arn, container, code, self.now)

    def finish(self, arn: str, code: int = 0) -> None:
        """Start the task, end it, and let time pass until it is STOPPED."""
        self.start(arn)
        self.exit(arn, code)
        self.reach(arn, "STOPPED")

    def reach(self, arn: str, status: str) -> None:
        """Let time pass until the task has this lastStatus."""
        while self.describe(arn)["lastStatus"] != status:
            at = self.model.next_event_at()
            assert at is not None, f"{arn} will never be {status}"
            self.wait(at - self.now)

    def started(self, arn: str) -> bool:
        """Whether somebody was told to start a container of the task."""
        return any(isinstance(effect, StartContainer) and effect.task_arn == arn for effect in self.effects)

    def signals(self, arn: str) -> list[str]:
        """The signals sent to the task's containers so far."""
        return [
            effect.signal for effect in self.effects if isinstance(effect, SignalContainer) and effect.task_arn == arn
        ]


class QueueWorld:
    """A queue of SQS named `q`, and its clock."""

    def __init__(self, **attributes: str) -> None:
        self.model = SqsModel(Settings(), random.Random(1))
        self.now = 1_000_000.0
        self.url = self.create("q", **attributes)

    def create(self, name: str, **attributes: str) -> str:
        """A queue; its URL."""
        return str(self.call("CreateQueue", QueueName=name, Attributes=attributes)["QueueUrl"])

    def redrive(self, receives: int) -> str:
        """Give `q` a dead-letter queue for what is received more often; its URL."""
        dead = self.create("dead")
        policy = {"deadLetterTargetArn": self.model.arn("dead"), "maxReceiveCount": receives}
        self.call("SetQueueAttributes", Attributes={"RedrivePolicy": json.dumps(policy)})
        return dead

    def call(self, operation: str, **request: Any) -> dict[str, Any]:
        """One API call, of which request and answer must be known to botocore."""
        if operation not in ("CreateQueue", "GetQueueUrl"):
            request.setdefault("QueueUrl", self.url)
        assert request_problems(operation, request, "sqs") == ""
        try:
            answer = self.model.call(operation, request, self.now)
        except AwsError as error:
            if not known_error(operation, error.code, "sqs"):
                pytest.fail(f"{operation} cannot answer {error.code}")
            raise
        assert answer_problems(operation, answer, "sqs") == []
        return answer

    def send(self, *bodies: str, **request: Any) -> None:
        """SendMessage of each body."""
        for body in bodies:
            self.call("SendMessage", MessageBody=body, **request)

    def receive(self, limit: int = 10, **request: Any) -> list[dict[str, Any]]:
        """The messages of one ReceiveMessage."""
        return list(self.call("ReceiveMessage", MaxNumberOfMessages=limit, **request).get("Messages", []))

    def bodies(self, limit: int = 10, **request: Any) -> list[str]:
        """What they say."""
        return [message["Body"] for message in self.receive(limit, **request)]

    def delete(self, message: dict[str, Any], **request: Any) -> None:
        """DeleteMessage."""
        self.call("DeleteMessage", ReceiptHandle=message["ReceiptHandle"], **request)

    def numbers(self, **request: Any) -> tuple[int, int, int]:
        """How many messages can be received, are in flight, and are delayed."""
        kinds = ("", "NotVisible", "Delayed")
        names = [f"ApproximateNumberOfMessages{kind}" for kind in kinds]
        found = self.call("GetQueueAttributes", AttributeNames=names, **request)["Attributes"]
        visible, in_flight, delayed = (int(found[name]) for name in names)
        return visible, in_flight, delayed


@contextmanager
def refused(code: str, match: str | None = None, status: int = 400) -> Iterator[pytest.ExceptionInfo[AwsError]]:
    """The block must be refused with this AWS error code."""
    with pytest.raises(AwsError, match=match) as caught:
        yield caught
    assert caught.value.code == code
    assert caught.value.status == status


def eventually(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of the condition; the deadline is only there to end a broken test."""
    deadline = time.monotonic() + 60
    pause = threading.Event()
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited 60 s in vain for: {what}"
        pause.wait(0.01)
    return value
