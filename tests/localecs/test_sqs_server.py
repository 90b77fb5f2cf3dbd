"""SQS through unmodified boto3: the wire, long polls, and events of tasks that run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from reconciler.localecs import AwsError, LocalEcs, ResponseLost, Settings
from tests.localecs.world import FARGATE, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

QUEUE = "ecs-events"
COMMAND = {"containerOverrides": [{"name": "airflow", "command": ["sh", "-c", "exit 7"]}]}


@pytest.fixture
def told() -> Iterator[LocalEcs]:
    """A server that runs nothing and tells of it."""
    with LocalEcs(settings=Settings.unthrottled(), events_queue=QUEUE) as running:
        yield running


@pytest.fixture
def sqs(told: LocalEcs, connect: Callable[..., Any]) -> Any:
    return connect(told, "sqs")


@pytest.fixture
def url(told: LocalEcs) -> str:
    assert told.sqs.events_queue_url is not None
    return told.sqs.events_queue_url


def drain(sqs: Any, url: str, last: str) -> list[dict[str, Any]]:
    """Read events until a task has this status; what they say of their tasks."""
    found: list[dict[str, Any]] = []
    while not found or found[-1]["lastStatus"] != last:
        messages = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages")
        assert messages, f"no more events, the last one is {found[-1:]}"
        found += [json.loads(message["Body"])["detail"] for message in messages]
        entries = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(messages)]
        assert len(sqs.delete_message_batch(QueueUrl=url, Entries=entries)["Successful"]) == len(messages)
    return found


def test_a_task_s_life_can_be_read_from_the_queue(tmp_path: Any, connect: Callable[..., Any]) -> None:
    with LocalEcs(settings=Settings.unthrottled(), directory=tmp_path, events_queue=QUEUE) as server:
        ecs, sqs = connect(server), connect(server, "sqs")
        url = sqs.get_queue_url(QueueName=QUEUE)["QueueUrl"]
        assert url == server.sqs.events_queue_url
        arn = ecs.run_task(**FARGATE, overrides=COMMAND, startedBy="me")["tasks"][0]["taskArn"]
        details = drain(sqs, url, "STOPPED")
        [task] = ecs.describe_tasks(tasks=[arn])["tasks"]
    assert [detail["version"] for detail in details] == list(range(1, task["version"] + 1))
    assert {detail["taskArn"] for detail in details} == {arn}
    assert {detail["startedBy"] for detail in details} == {"me"}
    assert details[-1]["containers"][0]["exitCode"] == task["containers"][0]["exitCode"] == 7
    assert server.sqs.model.stats()["queues"][QUEUE]["deleted"] == len(details)


def test_the_queue_is_like_the_one_of_the_template(told: LocalEcs, sqs: Any, url: str) -> None:
    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert (found["MessageRetentionPeriod"], found["ReceiveMessageWaitTimeSeconds"]) == ("3600", "20")
    assert json.loads(found["RedrivePolicy"])["maxReceiveCount"] == 5
    assert sqs.get_queue_url(QueueName=f"{QUEUE}-dead-letter")["QueueUrl"] == f"{url}-dead-letter"
    assert told.stats()["sqs"]["queues"][QUEUE]["visible"] == 0


def test_what_a_test_does_to_a_task_is_told(told: LocalEcs, connect: Callable[..., Any], sqs: Any, url: str) -> None:
    arn = connect(told).run_task(**FARGATE)["tasks"][0]["taskArn"]
    assert drain(sqs, url, "RUNNING")[-1]["desiredStatus"] == "RUNNING"
    with told.lock:
        told.model.lose_host(arn, told.now())
        told.wake()
    assert drain(sqs, url, "STOPPED")[-1]["stopCode"] == "InfrastructureHealth"


def test_without_a_queue_nothing_is_told_but_sqs_is_there(connect: Callable[..., Any]) -> None:
    with LocalEcs(settings=Settings.unthrottled()) as server:
        connect(server).run_task(**FARGATE)
        sqs = connect(server, "sqs")
        url = sqs.create_queue(QueueName="mine")["QueueUrl"]
        sqs.send_message(QueueUrl=url, MessageBody="a")
        assert sqs.receive_message(QueueUrl=url)["Messages"][0]["Body"] == "a"
        assert server.sqs.events_queue_url is None
        with server.lock:
            assert server.model.take_events() == []


def polling(server: LocalEcs, count: int = 1) -> bool:
    """Whether so many polls wait."""
    with server.sqs.lock:
        return len(server.sqs.lock._waiters) >= count  # type: ignore[attr-defined]


def test_a_long_poll_ends_with_the_first_message_and_holds_nobody_up(
    told: LocalEcs, connect: Callable[..., Any], sqs: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, ecs = connect(told, "sqs"), connect(told)
    wait = told.sqs.lock.wait
    monkeypatch.setattr(told.sqs.lock, "wait", lambda _: wait())  # the end of its time does not wake it
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(sqs.receive_message, QueueUrl=url, WaitTimeSeconds=20)
        try:
            eventually(lambda: polling(told), "the poll to wait")
            assert ecs.list_tasks()["taskArns"] == []
            assert other.get_queue_url(QueueName=QUEUE)["QueueUrl"] == url
            other.send_message(QueueUrl=url, MessageBody="at last")
            assert poll.result(30)["Messages"][0]["Body"] == "at last"
        finally:
            told.sqs.stop()


def test_an_event_ends_a_long_poll(
    told: LocalEcs, connect: Callable[..., Any], sqs: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = told.sqs.lock.wait
    monkeypatch.setattr(told.sqs.lock, "wait", lambda _: wait())
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(sqs.receive_message, QueueUrl=url, WaitTimeSeconds=20)
        try:
            eventually(lambda: polling(told), "the poll to wait")
            arn = connect(told).run_task(**FARGATE)["tasks"][0]["taskArn"]
            assert json.loads(poll.result(30)["Messages"][0]["Body"])["resources"] == [arn]
        finally:
            told.sqs.stop()


def test_a_message_goes_to_one_of_those_who_wait(told: LocalEcs, connect: Callable[..., Any], url: str) -> None:
    clients = [connect(told, "sqs") for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        polls = [pool.submit(client.receive_message, QueueUrl=url, WaitTimeSeconds=20) for client in clients]
        eventually(lambda: polling(told, 3), "the polls to wait")
        with told.sqs.lock:
            for n in range(3):
                told.sqs.model.deliver(QUEUE, {"n": n}, told.now())
            told.sqs.lock.notify_all()
        got = [json.loads(message["Body"])["n"] for poll in polls for message in poll.result(60)["Messages"]]
    assert sorted(got) == [0, 1, 2]


def test_a_poll_wakes_when_a_visibility_timeout_ends(
    told: LocalEcs, sqs: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    wait = told.sqs.lock.wait

    def watched(seconds: float) -> bool:
        waits.append(seconds)
        return wait(seconds)

    monkeypatch.setattr(told.sqs.lock, "wait", watched)
    sqs.send_message(QueueUrl=url, MessageBody="a")
    for _ in range(2):
        answer = sqs.receive_message(QueueUrl=url, VisibilityTimeout=1, WaitTimeSeconds=20)
        assert answer["Messages"][0]["Body"] == "a"
    # None waits if a second has passed before the second poll.
    assert max(waits, default=0) <= 1


def test_a_poll_in_vain_answers_nothing(sqs: Any, url: str) -> None:
    assert "Messages" not in sqs.receive_message(QueueUrl=url, WaitTimeSeconds=1)
    assert "Messages" not in sqs.receive_message(QueueUrl=url, WaitTimeSeconds=0)


def test_closing_ends_the_polls(connect: Callable[..., Any]) -> None:
    with ThreadPoolExecutor(1) as pool:
        with LocalEcs(settings=Settings.unthrottled(), events_queue=QUEUE) as server:
            sqs = connect(server, "sqs")
            poll = pool.submit(sqs.receive_message, QueueUrl=server.sqs.events_queue_url)
            eventually(lambda: polling(server), "the poll to wait")
            server.sqs._clock = lambda: 0.0  # now only closing ends it, and closing waits for it
        assert poll.exception(60) is None or isinstance(poll.exception(), ConnectionClosedError)


NONE_SUCH = ("QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue", 400)
EMPTY = ("EmptyBatchRequest", "AWS.SimpleQueueService.EmptyBatchRequest", 400)
HANDLE = ("ReceiptHandleIsInvalid", "ReceiptHandleIsInvalid", 404)
EXISTS = ("QueueNameExists", "QueueAlreadyExists", 400)
VALUE = (None, "InvalidParameterValue", 400)


@pytest.mark.parametrize(
    ("operation", "parameters", "expected"),
    [
        ("receive_message", {"QueueUrl": "x"}, NONE_SUCH),
        ("get_queue_url", {"QueueName": "x"}, NONE_SUCH),
        ("delete_message", {"QueueUrl": QUEUE, "ReceiptHandle": "x"}, HANDLE),
        ("delete_message_batch", {"QueueUrl": QUEUE, "Entries": []}, EMPTY),
        ("create_queue", {"QueueName": QUEUE, "Attributes": {"VisibilityTimeout": "1"}}, EXISTS),
        ("receive_message", {"QueueUrl": QUEUE, "MaxNumberOfMessages": 11}, VALUE),
        ("receive_message", {"QueueUrl": QUEUE, "WaitTimeSeconds": 21}, VALUE),
        ("list_queues", {}, (None, "UnknownOperationException", 400)),
    ],
)
def test_an_error_is_the_one_that_boto3_knows(
    sqs: Any, operation: str, parameters: dict[str, Any], expected: tuple[str | None, str, int]
) -> None:
    kind, code, status = expected
    with pytest.raises(getattr(sqs.exceptions, kind) if kind else ClientError) as caught:
        getattr(sqs, operation)(**parameters)
    response: Any = caught.value.response
    assert response["Error"]["Code"] == code
    assert response["Error"]["Type"] == "Sender"
    assert response["Error"]["QueryErrorCode"] == (kind or code)
    assert response["Error"]["Message"]
    assert response["ResponseMetadata"]["HTTPStatusCode"] == status


def test_an_error_on_the_wire_is_json_with_the_old_code_in_a_header(told: LocalEcs) -> None:
    request = urllib.request.Request(
        told.endpoint_url, b'{"QueueName": "x"}', {"X-Amz-Target": "AmazonSQS.GetQueueUrl"}
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    assert json.load(caught.value)["__type"] == "com.amazonaws.sqs#QueueDoesNotExist"
    assert caught.value.headers["x-amzn-query-error"] == "AWS.SimpleQueueService.NonExistentQueue;Sender"
    assert caught.value.headers["Content-Type"] == "application/x-amz-json-1.0"
    caught.value.close()


def test_a_member_that_is_missing_or_of_another_type_is_an_error(told: LocalEcs) -> None:
    for body, code in ((b"{}", "MissingParameter"), (b'{"QueueUrl": 1}', "SerializationException")):
        request = urllib.request.Request(told.endpoint_url, body, {"X-Amz-Target": "AmazonSQS.ReceiveMessage"})
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request)
        assert caught.value.headers["x-amzn-query-error"] == f"{code};Sender"
        caught.value.close()


def test_a_refusal_does_not_wait_for_a_message(
    told: LocalEcs, sqs: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(told.sqs.lock, "wait", lambda _: pytest.fail("it waits"))
    with told.sqs.lock:
        told.sqs.model.faults.on_call("ReceiveMessage", AwsError("AccessDenied", "no", 403))
        told.sqs.model.faults.on_call("ReceiveMessage", AwsError("ServiceUnavailable", "no", 503))
    with pytest.raises(ClientError, match="AccessDenied"):
        sqs.receive_message(QueueUrl=url)
    with pytest.raises(ClientError) as caught:
        sqs.receive_message(QueueUrl=url)
    response: Any = caught.value.response
    assert response["Error"]["Type"] == "Receiver"


def test_an_answer_that_is_lost_closes_the_connection(told: LocalEcs, sqs: Any, url: str) -> None:
    sqs.send_message(QueueUrl=url, MessageBody="a")
    handle = sqs.receive_message(QueueUrl=url)["Messages"][0]["ReceiptHandle"]
    with told.sqs.lock:
        told.sqs.model.faults.on_call("DeleteMessage", ResponseLost(), after_effect=True)
    with pytest.raises(ConnectionClosedError):
        sqs.delete_message(QueueUrl=url, ReceiptHandle=handle)
    assert told.stats()["sqs"]["queues"][QUEUE]["deleted"] == 1


@pytest.mark.skipif(shutil.which("aws") is None, reason="the aws command line is not installed")
def test_the_aws_command_line_works(told: LocalEcs, url: str, tmp_path: Any) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "AWS_ACCESS_KEY_ID": "anything",
        "AWS_SECRET_ACCESS_KEY": "goes",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_PAGER": "",
    }
    with told.sqs.lock:
        told.sqs.model.deliver(QUEUE, {"a": 1}, told.now())
    # Version 1 of it would go to queue.amazonaws.com, whatever AWS_ENDPOINT_URL_SQS says.
    command = ["aws", "sqs", "receive-message", "--endpoint-url", told.endpoint_url, "--queue-url", url]
    done = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=120)
    assert json.loads(json.loads(done.stdout)["Messages"][0]["Body"]) == {"a": 1}
