"""The queue of events over HTTP: the local SQS with its faults, and moto's for a second opinion."""

from __future__ import annotations

import json
import socket
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, Any

import boto3
import pytest
import structlog
from moto import mock_aws

from reconciler.core.errors import EventsUnavailable
from reconciler.ecs import events
from reconciler.ecs.client import make_queue_client
from reconciler.ecs.events import EventQueue, read_event
from reconciler.localecs import AwsError, LocalEcs, ResponseLost, Settings
from tests.ecs.world import REGION, MachineClock, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

EVENTS = "airflow-events"


class Site:
    """A local ECS that tells of its tasks, and a queue to read."""

    def __init__(self, ecs: LocalEcs, aws: boto3.Session) -> None:
        self.ecs = ecs
        self.calls: Counter[tuple[str, str]] = Counter()
        assert ecs.sqs.events_queue_url
        self.url = ecs.sqs.events_queue_url
        self.client = make_queue_client(REGION, threads=9, session=aws)
        self.queue = EventQueue(
            self.client, self.url, MachineClock(), on_call=lambda name, result, _: self.calls.update([(name, result)])
        )

    @property
    def faults(self) -> Any:
        return self.ecs.sqs.model.faults

    def send(self, *bodies: str) -> None:
        for body in bodies:
            self.client.send_message(QueueUrl=self.url, MessageBody=body)

    def left(self) -> dict[str, int]:
        return dict(self.ecs.sqs.stats()["queues"][EVENTS])


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, aws: boto3.Session) -> Iterator[Site]:
    with LocalEcs(settings=Settings.unthrottled(), events_queue=EVENTS, seed=1) as ecs:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", ecs.endpoint_url)
        made = Site(ecs, aws)
        yield made
        made.queue.close()


def body(number: int, **changes: Any) -> str:
    detail = {
        "taskArn": f"arn:aws:ecs:{REGION}:123456789012:task/default/{number:032x}",
        "lastStatus": "RUNNING",
        "startedBy": "test/a/1",
        "version": number,
        "updatedAt": "2026-01-01T00:00:00.250Z",
        **changes,
    }
    return json.dumps(
        {"source": "aws.ecs", "detail-type": "ECS Task State Change", "time": "2026-01-01T00:00:00Z", "detail": detail}
    )


def test_what_ecs_tells_of_a_task_reads_like_what_it_shows(site: Site) -> None:
    request = {
        "cluster": "default",
        "taskDefinition": "airflow-task",
        "launchType": "FARGATE",
        "startedBy": "test/a/1",
        "networkConfiguration": {"awsvpcConfiguration": {"subnets": ["subnet-1"]}},
        "overrides": {
            "containerOverrides": [
                {"name": "airflow", "environment": [{"name": "ECS_RECONCILER_EXEC_ID", "value": "a"}]}
            ]
        },
    }
    (made,) = site.ecs.call("RunTask", request)["tasks"]
    heard: list[Any] = []

    def statuses() -> set[str]:
        received = site.queue.receive()
        heard.extend(received)
        site.queue.delete([event.receipt for event in received])
        return {event.task.last_status for event in heard if event.task}

    eventually(lambda: "RUNNING" in statuses())
    site.ecs.container_exited(made["taskArn"], "airflow", 7)
    eventually(lambda: "STOPPED" in statuses())
    last = max((event.task for event in heard), key=lambda task: task.version)
    assert (last.arn, last.started_by, last.stopped) == (made["taskArn"], "test/a/1", True)
    assert last.container is not None
    assert last.container.exit_code == 7
    assert last.started_at is not None
    assert last.stopped_at is not None
    assert all(event.at is not None and event.flaw is None for event in heard)
    assert site.left()["deleted"] == len(heard)


def test_an_empty_queue_is_waited_for_and_a_message_is_given_at_once(site: Site) -> None:
    clock = MachineClock()
    began = clock.monotonic()
    assert site.queue.receive() == []
    assert clock.monotonic() - began >= events.WAIT - 0.1
    site.send(body(1))
    (event,) = site.queue.receive()
    assert event.task is not None
    assert event.at is not None
    assert event.at.microsecond == 250_000


def test_many_are_received_and_deleted_at_once(site: Site) -> None:
    site.send(*(body(number) for number in range(1, 66)))
    received = site.queue.receive()
    assert len(received) == 65
    assert site.queue.backlog() == 65
    site.queue.delete([event.receipt for event in received])
    assert site.queue.backlog() == 0
    assert site.calls["DeleteMessageBatch", "ok"] == 7


def test_what_is_received_is_not_lost_when_a_further_call_fails(site: Site) -> None:
    site.send(*(body(number) for number in range(1, 31)))
    with site.ecs.sqs.lock:
        site.faults.on_call(
            "ReceiveMessage",
            AwsError("ServiceUnavailable", "", 503),
            times=None,
            where=lambda r: not r["WaitTimeSeconds"],
        )
    assert len(site.queue.receive()) == events.BATCH
    assert site.calls["ReceiveMessage", "server_error"] == events.CALLS


@pytest.mark.parametrize(
    ("operation", "fault", "result"),
    [
        ("ReceiveMessage", AwsError("AccessDeniedException", "may not sqs:ReceiveMessage", 403), "credentials"),
        ("ReceiveMessage", AwsError("ServiceUnavailable", "", 503), "server_error"),
        ("ReceiveMessage", AwsError("ThrottlingException", "Rate exceeded"), "throttled"),
        ("DeleteMessageBatch", ResponseLost(), "network"),
        ("GetQueueAttributes", AwsError("AWS.SimpleQueueService.NonExistentQueue", "no such queue"), "client_error"),
    ],
)  # fmt: skip
def test_a_call_that_fails_is_not_repeated_by_the_sdk(site: Site, operation: str, fault: Any, result: str) -> None:
    site.send(body(1))
    receipts = [event.receipt for event in site.queue.receive()]
    with site.ecs.sqs.lock:
        site.faults.on_call(operation, fault)
    call = {
        "ReceiveMessage": site.queue.receive,
        "DeleteMessageBatch": lambda: site.queue.delete(receipts),
        "GetQueueAttributes": site.queue.backlog,
    }[operation]
    with pytest.raises(EventsUnavailable, match=operation):
        call()
    assert site.calls[operation, result] == 1
    call()


def test_a_message_that_is_not_deleted_is_an_error(site: Site) -> None:
    with pytest.raises(EventsUnavailable, match="ReceiptHandleIsInvalid"):
        site.queue.delete(["nonsense"])


def test_nobody_there(aws: boto3.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", f"http://127.0.0.1:{free.getsockname()[1]}")
        queue = EventQueue(
            make_queue_client(REGION, threads=1, session=aws), "http://x/1/q", MachineClock(), on_call=lambda *_: None
        )
        with pytest.raises(EventsUnavailable, match="ReceiveMessage"):
            queue.receive()
        queue.close()


def test_an_answer_that_is_no_answer_of_sqs(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: Any) -> Any:
        raise UnboundLocalError("botocore's parser")

    monkeypatch.setattr(site.client, "receive_message", broken)
    with pytest.raises(EventsUnavailable):
        site.queue.receive()


def test_flaws_are_logged_once_without_contents(site: Site) -> None:
    site.send("a secret, and no JSON", body(1, version="a secret"))
    with structlog.testing.capture_logs() as logs:
        first = site.queue.receive()
        for event in first:
            site.client.change_message_visibility(QueueUrl=site.url, ReceiptHandle=event.receipt, VisibilityTimeout=0)
        second = site.queue.receive()
    assert all(event.flaw and event.task is None for event in (*first, *second))
    assert len(second) == 2
    assert len(logs) == 2
    assert "secret" not in str(logs)


def test_messages_about_something_else_are_no_flaws() -> None:
    other = json.loads(body(1))
    assert read_event(json.dumps(other | {"detail-type": "ECS Service Action"})) == (None, None)
    assert read_event(json.dumps(other | {"source": "aws.s3"})) == (None, None)
    assert read_event('{"Type": "Notification", "Message": "wrapped by SNS"}') == (None, None)
    with pytest.raises(ValueError, match="longer"):
        read_event(" " * (events.LARGEST + 1))


ANYTHING: tuple[Any, ...] = (
    None, True, 7, -1, 2**70, 1.5, 1e17, -1e17, 1e300, float("nan"), float("inf"), "", "x", "\0", "\ud800",
    "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", [], [None], [[]], {}, {"a": None},
)  # fmt: skip
"""What JSON may hold where something else is expected."""


def members(value: Any, *path: Any) -> Iterator[tuple[Any, ...]]:
    """The way to each part of a document, itself included."""
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        yield from members(part, *path, name)


def spoilt(value: Any, path: Sequence[Any], *anything: Any) -> Any:
    """A document with `anything` in the place of one part, or without that part."""
    if not path:
        return anything[0]
    copy = value.copy()
    if len(path) > 1 or anything:
        copy[path[0]] = spoilt(value[path[0]], path[1:], *anything)
    else:
        del copy[path[0]]
    return copy


def test_whatever_stands_in_an_event_it_is_read_or_has_a_flaw() -> None:
    whole = json.loads(
        body(
            1,
            createdAt="2026-01-01T00:00:00Z",
            startedAt=1.5,
            stoppedReason="x",
            overrides={"containerOverrides": [{"name": "a", "environment": [{"name": "A"}]}]},
            containers=[{"name": "a", "exitCode": 1, "reason": "x", "runtimeId": "r"}],
        )
    )
    without = spoilt(whole, ("detail", "updatedAt"))
    documents = [
        spoilt(event, path, *anything)
        for event in (whole, without)
        for path in members(event)
        for anything in [*((value,) for value in ANYTHING), *([()] if path else [])]
    ]
    read = 0
    for document in documents:
        try:
            read += read_event(json.dumps(document))[0] is not None
        except ValueError as flaw:
            assert str(flaw).startswith("it ")  # noqa: PT017 - many are read as well
    assert 0 < read < len(documents)


def test_moto_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        client = make_queue_client(REGION, threads=1, session=boto3.Session())
        url = client.create_queue(QueueName=EVENTS)["QueueUrl"]
        queue = EventQueue(client, url, MachineClock(), on_call=lambda *_: None, calls=1)
        for number in range(1, 14):
            client.send_message(QueueUrl=url, MessageBody=body(number))
        received = queue.receive()
        assert len(received) == 13
        assert {event.task.version for event in received if event.task} == set(range(1, 14))
        assert queue.backlog() == 13
        queue.delete([event.receipt for event in received])
        assert queue.backlog() == 0
        assert queue.receive() == []
        with pytest.raises(EventsUnavailable):
            EventQueue(client, url + "x", MachineClock(), on_call=lambda *_: None).receive()
