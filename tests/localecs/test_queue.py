"""A queue of SQS on a clock that the test turns."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from reconciler.localecs import AwsError
from tests.localecs.world import QueueWorld, refused

GONE = "AWS.SimpleQueueService.NonExistentQueue"
BROKEN = AwsError("ServiceUnavailable", "Service is unable to handle request.", 503)
DENIED = AwsError("AccessDenied", "Access to the resource is denied.", 403)


def test_messages_come_in_order_at_most_as_many_as_asked_for_and_are_hidden() -> None:
    world = QueueWorld()
    world.send(*"abcde")
    assert world.bodies(3) == ["a", "b", "c"]
    assert world.bodies() == ["d", "e"]
    assert world.bodies() == []
    assert world.numbers() == (0, 5, 0)


def test_one_message_is_the_default() -> None:
    world = QueueWorld()
    world.send("a", "b")
    assert len(world.call("ReceiveMessage")["Messages"]) == 1


def test_a_message_shows_what_was_asked_for() -> None:
    world = QueueWorld()
    sent = world.call("SendMessage", MessageBody="ä")
    world.now += 2.5
    [message] = world.receive(MessageSystemAttributeNames=["All"])
    assert message["MessageId"] == sent["MessageId"]
    assert message["MD5OfBody"] == sent["MD5OfMessageBody"] == hashlib.md5("ä".encode()).hexdigest()  # noqa: S324
    assert message["Attributes"] == {
        "SenderId": "123456789012",
        "SentTimestamp": "1000000000",
        "ApproximateReceiveCount": "1",
        "ApproximateFirstReceiveTimestamp": "1000002500",
    }
    world.now += 30
    [again] = world.receive(AttributeNames=["ApproximateReceiveCount", "ApproximateFirstReceiveTimestamp"])
    assert again["Attributes"] == {
        "ApproximateReceiveCount": "2",
        "ApproximateFirstReceiveTimestamp": "1000002500",
    }
    world.now += 30
    assert "Attributes" not in world.receive()[0]


def test_what_is_not_deleted_comes_again_with_another_handle_when_its_time_is_up() -> None:
    world = QueueWorld(VisibilityTimeout="10")
    world.send("a")
    [first] = world.receive()
    world.now += 9.9
    assert world.receive() == []
    world.now += 0.1
    assert world.numbers() == (1, 0, 0)
    [second] = world.receive()
    assert second["MessageId"] == first["MessageId"]
    assert second["ReceiptHandle"] != first["ReceiptHandle"]


def test_a_visibility_timeout_can_be_given_with_the_call_and_be_none() -> None:
    world = QueueWorld()
    world.send("a", "b")
    assert world.bodies(VisibilityTimeout=0) == ["a", "b"]
    assert world.bodies(VisibilityTimeout=5) == ["a", "b"]
    world.now += 5
    assert world.bodies() == ["a", "b"]


def test_a_deleted_message_is_gone_and_deleting_it_again_is_no_error() -> None:
    world = QueueWorld()
    world.send("a")
    [message] = world.receive()
    world.delete(message)
    world.delete(message)
    world.now += 1000
    assert world.receive() == []
    assert world.model.stats()["queues"]["q"]["deleted"] == 1


def test_a_handle_lives_longer_than_its_visibility_but_not_than_the_next_receipt() -> None:
    world = QueueWorld()
    world.send("a")
    [first] = world.receive()
    world.now += 30
    [second] = world.receive()
    world.delete(first)
    assert world.numbers() == (0, 1, 0)
    world.now += 30
    world.delete(second)
    assert world.numbers() == (0, 0, 0)


@pytest.mark.parametrize("handle", ["nonsense", "", "bm9uc2Vuc2U=", "cS9hL2I="])
def test_what_is_no_handle_is_refused(handle: str) -> None:
    world = QueueWorld()
    with refused("ReceiptHandleIsInvalid", status=404):
        world.call("DeleteMessage", ReceiptHandle=handle)
    with refused("ReceiptHandleIsInvalid", status=404):
        world.call("ChangeMessageVisibility", ReceiptHandle=handle, VisibilityTimeout=1)


def test_a_handle_of_another_queue_is_none() -> None:
    world = QueueWorld()
    other = world.create("other")
    world.send("a")
    [message] = world.receive()
    with refused("ReceiptHandleIsInvalid", status=404):
        world.delete(message, QueueUrl=other)


def test_a_batch_of_deletions_tells_of_each() -> None:
    world = QueueWorld()
    world.send("a", "b")
    a, b = world.receive()
    entries = [
        {"Id": "a", "ReceiptHandle": a["ReceiptHandle"]},
        {"Id": "x", "ReceiptHandle": "nonsense"},
        {"Id": "b", "ReceiptHandle": b["ReceiptHandle"]},
    ]
    answer = world.call("DeleteMessageBatch", Entries=entries)
    assert answer["Successful"] == [{"Id": "a"}, {"Id": "b"}]
    [failed] = answer["Failed"]
    assert (failed["Id"], failed["SenderFault"], failed["Code"]) == ("x", True, "ReceiptHandleIsInvalid")
    assert world.numbers() == (0, 0, 0)


@pytest.mark.parametrize(
    ("ids", "code"),
    [
        ([], "EmptyBatchRequest"),
        (["a", "a"], "BatchEntryIdsNotDistinct"),
        (["a b"], "InvalidBatchEntryId"),
        (["a" * 81], "InvalidBatchEntryId"),
        ([str(n) for n in range(11)], "TooManyEntriesInBatchRequest"),
    ],
)
def test_a_batch_that_is_none_is_refused(ids: list[str], code: str) -> None:
    with refused(f"AWS.SimpleQueueService.{code}"):
        QueueWorld().call("DeleteMessageBatch", Entries=[{"Id": entry, "ReceiptHandle": "x"} for entry in ids])


def test_visibility_can_be_changed_while_it_runs() -> None:
    world = QueueWorld()
    world.send("a")
    [message] = world.receive()
    handle = message["ReceiptHandle"]
    world.now += 20
    world.call("ChangeMessageVisibility", ReceiptHandle=handle, VisibilityTimeout=60)
    world.now += 59
    assert world.receive() == []
    world.call("ChangeMessageVisibility", ReceiptHandle=handle, VisibilityTimeout=0)
    assert world.numbers() == (1, 0, 0)
    with refused("InvalidParameterValue", "not available for visibility timeout change"):
        world.call("ChangeMessageVisibility", ReceiptHandle=handle, VisibilityTimeout=0)
    [again] = world.receive()
    with refused("InvalidParameterValue", "not available"):
        world.call("ChangeMessageVisibility", ReceiptHandle=handle, VisibilityTimeout=0)
    world.now += 20
    with refused("InvalidParameterValue", "beyond the limit"):
        world.call("ChangeMessageVisibility", ReceiptHandle=again["ReceiptHandle"], VisibilityTimeout=43190)
    world.delete(again)
    with refused("InvalidParameterValue", "does not exist"):
        world.call("ChangeMessageVisibility", ReceiptHandle=again["ReceiptHandle"], VisibilityTimeout=1)


def test_a_timeout_that_was_changed_to_and_fro_gives_the_message_once() -> None:
    world = QueueWorld()
    world.send("a")
    [message] = world.receive()
    for timeout in (60, 30):
        world.call("ChangeMessageVisibility", ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=timeout)
    world.now += 30
    assert world.bodies() == ["a"]


def test_what_is_received_too_often_goes_to_the_dead_letter_queue() -> None:
    world = QueueWorld(VisibilityTimeout="0")
    dead = world.redrive(3)
    world.send("poison")
    assert [world.bodies() for _ in range(3)] == [["poison"]] * 3
    assert world.numbers(QueueUrl=dead) == (0, 0, 0)
    world.send("fine")
    assert world.bodies() == ["fine"]
    assert world.numbers(QueueUrl=dead) == (1, 0, 0)
    [message] = world.receive(QueueUrl=dead, MessageSystemAttributeNames=["All"])
    assert message["Body"] == "poison"
    assert message["Attributes"]["SentTimestamp"] == "1000000000"
    assert message["Attributes"]["DeadLetterQueueSourceArn"] == world.model.arn("q")
    world.delete(message, QueueUrl=dead)
    stats = world.model.stats()["queues"]
    assert (stats["q"]["given_up"], stats["dead"]["deleted"]) == (1, 1)


def test_a_redrive_policy_can_be_taken_away() -> None:
    world = QueueWorld(VisibilityTimeout="0")
    world.redrive(1)
    world.send("a")
    world.call("SetQueueAttributes", Attributes={"RedrivePolicy": ""})
    assert [world.bodies() for _ in range(3)] == [["a"]] * 3
    assert "RedrivePolicy" not in world.call("GetQueueAttributes", AttributeNames=["All"])["Attributes"]


@pytest.mark.parametrize(
    "policy",
    [
        "no json",
        "[]",
        '{"maxReceiveCount": 3}',
        '{"deadLetterTargetArn": "arn:aws:sqs:us-east-1:123456789012:q", "maxReceiveCount": 0}',
        '{"deadLetterTargetArn": "arn:aws:sqs:us-east-1:123456789012:nowhere", "maxReceiveCount": 3}',
        '{"deadLetterTargetArn": "arn:aws:sqs:eu-west-1:123456789012:q", "maxReceiveCount": 3}',
    ],
)
def test_a_redrive_policy_that_leads_nowhere_is_refused(policy: str) -> None:
    with refused("InvalidParameterValue", "RedrivePolicy"):
        QueueWorld().call("SetQueueAttributes", Attributes={"RedrivePolicy": policy})


def test_what_is_too_old_is_gone_also_in_flight() -> None:
    world = QueueWorld(MessageRetentionPeriod="60", VisibilityTimeout="1000")
    world.send("a", "b")
    world.receive(1)
    world.now += 59.9
    assert world.numbers() == (1, 1, 0)
    world.now += 0.1
    assert world.receive() == []
    assert world.numbers() == (0, 0, 0)
    assert world.model.stats()["queues"]["q"]["expired"] == 2


def test_a_delay_holds_back_by_the_message_or_by_the_queue() -> None:
    world = QueueWorld(DelaySeconds="10")
    world.send("a")
    world.send("b", DelaySeconds=3)
    world.send("c", DelaySeconds=0)
    assert world.numbers() == (1, 0, 2)
    assert world.bodies() == ["c"]
    world.now += 3
    assert world.bodies() == ["b"]
    world.now += 7
    assert world.bodies() == ["a"]


def test_the_attributes_are_those_that_were_set_and_no_others() -> None:
    world = QueueWorld()
    assert "Attributes" not in world.call("GetQueueAttributes")
    everything = world.call("GetQueueAttributes", AttributeNames=["All"])["Attributes"]
    assert everything == {
        "ApproximateNumberOfMessages": "0",
        "ApproximateNumberOfMessagesDelayed": "0",
        "ApproximateNumberOfMessagesNotVisible": "0",
        "CreatedTimestamp": "1000000",
        "DelaySeconds": "0",
        "LastModifiedTimestamp": "1000000",
        "MaximumMessageSize": "1048576",
        "MessageRetentionPeriod": "345600",
        "QueueArn": "arn:aws:sqs:us-east-1:123456789012:q",
        "ReceiveMessageWaitTimeSeconds": "0",
        "SqsManagedSseEnabled": "true",
        "VisibilityTimeout": "30",
    }
    world.now += 5
    world.call("SetQueueAttributes", Attributes={"VisibilityTimeout": "7"})
    changed = world.call("GetQueueAttributes", AttributeNames=["VisibilityTimeout", "LastModifiedTimestamp"])
    assert changed["Attributes"] == {"VisibilityTimeout": "7", "LastModifiedTimestamp": "1000005"}


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ({"VisibilityTimeout": "43201"}, "InvalidAttributeValue"),
        ({"VisibilityTimeout": "-1"}, "InvalidAttributeValue"),
        ({"VisibilityTimeout": "soon"}, "InvalidAttributeValue"),
        ({"MessageRetentionPeriod": "59"}, "InvalidAttributeValue"),
        ({"ReceiveMessageWaitTimeSeconds": "21"}, "InvalidAttributeValue"),
        ({"DelaySeconds": "901"}, "InvalidAttributeValue"),
        ({"QueueArn": "arn"}, "InvalidAttributeName"),
        ({"ApproximateAgeOfOldestMessage": "1"}, "InvalidAttributeName"),
    ],
)
def test_attributes_that_can_not_be_set_are_refused(attributes: dict[str, str], code: str) -> None:
    world = QueueWorld()
    with refused(code):
        world.call("SetQueueAttributes", Attributes=attributes)
    with refused(code):
        world.create("other", **attributes)
    with refused(GONE):
        world.call("GetQueueUrl", QueueName="other")


def test_an_attribute_that_only_cloudwatch_has_is_refused() -> None:
    world = QueueWorld()
    with refused("InvalidAttributeName"):
        world.model.call(
            "GetQueueAttributes", {"QueueUrl": "q", "AttributeNames": ["ApproximateAgeOfOldestMessage"]}, 1
        )


def test_a_queue_is_made_once_and_found_by_its_name_and_url() -> None:
    world = QueueWorld(VisibilityTimeout="5")
    assert world.create("q") == world.create("q", VisibilityTimeout="5") == world.url
    assert world.call("GetQueueUrl", QueueName="q")["QueueUrl"] == world.url
    with refused("QueueAlreadyExists", "VisibilityTimeout"):
        world.create("q", VisibilityTimeout="6")
    with refused("InvalidParameterValue"):
        world.create("q.fifo")
    world.send("a", QueueUrl="https://sqs.us-east-1.amazonaws.com/123456789012/q")
    assert world.bodies() == ["a"]


@pytest.mark.parametrize(
    ("operation", "request_"),
    [
        ("GetQueueAttributes", {}),
        ("SetQueueAttributes", {"Attributes": {}}),
        ("SendMessage", {"MessageBody": "a"}),
        ("ReceiveMessage", {}),
        ("DeleteMessage", {"ReceiptHandle": "x"}),
        ("DeleteMessageBatch", {"Entries": [{"Id": "a", "ReceiptHandle": "x"}]}),
        ("ChangeMessageVisibility", {"ReceiptHandle": "x", "VisibilityTimeout": 1}),
    ],
)
def test_a_queue_that_is_not_there_is_an_error_everywhere(operation: str, request_: dict[str, Any]) -> None:
    with refused(GONE, "The specified queue does not exist"):
        QueueWorld().call(operation, QueueUrl="http://localhost/123456789012/nowhere", **request_)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MaxNumberOfMessages", 0),
        ("MaxNumberOfMessages", 11),
        ("VisibilityTimeout", -1),
        ("VisibilityTimeout", 43201),
        ("WaitTimeSeconds", -1),
        ("WaitTimeSeconds", 21),
    ],
)
def test_a_number_outside_its_limits_is_refused(name: str, value: int) -> None:
    world = QueueWorld()
    with refused("InvalidParameterValue", f"Value {value} for parameter {name} is invalid"):
        world.call("ReceiveMessage", **{name: value})
    assert world.model.ready_at({"QueueUrl": world.url, name: value}) < 0


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"MessageBody": "x" * 1025}, "InvalidParameterValue"),
        ({"MessageBody": ""}, "MissingParameter"),
        ({"MessageBody": "a", "DelaySeconds": 901}, "InvalidParameterValue"),
        ({"MessageBody": "a", "MessageGroupId": "g"}, "AWS.SimpleQueueService.UnsupportedOperation"),
    ],
)
def test_a_message_that_can_not_be_sent_is_refused(message: dict[str, Any], code: str) -> None:
    world = QueueWorld(MaximumMessageSize="1024")
    with refused(code):
        world.call("SendMessage", **message)
    world.send("x" * 1024)


def test_ready_at_tells_when_a_poll_will_find_something() -> None:
    world = QueueWorld()
    request = {"QueueUrl": world.url}
    assert world.model.ready_at(request) == float("inf")
    world.send("a", DelaySeconds=7)
    assert world.model.ready_at(request) == world.now + 7
    world.now += 7
    [message] = world.receive()
    assert world.model.ready_at(request) == world.now + 30
    world.delete(message)
    assert world.model.ready_at(request) == float("inf")
    world.model.faults.on_call("ReceiveMessage", DENIED)
    assert world.model.ready_at(request) < world.now
    assert world.model.wait_seconds(request) == 0
    world.call("SetQueueAttributes", Attributes={"ReceiveMessageWaitTimeSeconds": "20"})
    assert world.model.wait_seconds(request) == 20
    assert world.model.wait_seconds({**request, "WaitTimeSeconds": 3}) == 3
