"""A queue of SQS on a clock that the test turns."""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

import pytest

from reconciler.localecs import AwsError, ResponseLost
from tests.localecs.world import QueueWorld, refused

GONE = "AWS.SimpleQueueService.NonExistentQueue"
BROKEN = AwsError("ServiceUnavailable", "Service is unable to handle request.", 503)
DENIED = AwsError("AccessDenied", "Access to the resource is denied.", 403)


def redrive(world: QueueWorld, receives: int) -> str:
    """Give `q` a dead-letter queue; its URL."""
    dead = world.create("dead")
    policy = {"deadLetterTargetArn": world.model.arn("dead"), "maxReceiveCount": receives}
    world.call("SetQueueAttributes", Attributes={"RedrivePolicy": json.dumps(policy)})
    return dead


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
    dead = redrive(world, 3)
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
    redrive(world, 1)
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


# -- faults ------------------------------------------------------------------------------------------------------------


def test_an_event_is_lost_doubled_or_late_as_often_as_asked_for() -> None:
    world = QueueWorld()
    world.model.faults.on_delivery(copies=0)
    world.model.faults.on_delivery(copies=2)
    world.model.faults.on_delivery(delay=7200)
    for n in range(4):
        world.model.deliver("q", {"n": n}, world.now)
    messages = world.receive()
    assert [json.loads(message["Body"]) for message in messages] == [{"n": 1}, {"n": 1}, {"n": 3}]
    assert len({message["MessageId"] for message in messages}) == 3
    assert world.numbers() == (0, 3, 0)
    for message in messages:
        world.delete(message)
    world.now += 7199
    assert world.receive() == []
    world.now += 1
    [late] = world.receive(MessageSystemAttributeNames=["SentTimestamp"])
    assert json.loads(late["Body"]) == {"n": 2}
    assert late["Attributes"]["SentTimestamp"] == str(int(world.now * 1000))


def test_a_fault_can_concern_some_messages_and_last() -> None:
    world = QueueWorld()
    rule = world.model.faults.on_delivery(copies=0, times=None, where=lambda request: "a" in request["MessageBody"])
    world.send("a", "b", "a")
    assert world.bodies() == ["b"]
    world.model.faults.remove(rule)
    world.send("a")
    assert world.bodies() == ["a"]


def test_a_spread_puts_messages_out_of_order() -> None:
    world = QueueWorld()
    world.model.faults.on_delivery(spread=100, times=None)
    sent = [f"{n:02}" for n in range(10)]
    world.send(*sent)
    world.now += 100
    got = world.bodies()
    assert sorted(got) == sent
    assert got != sent


@pytest.mark.parametrize("operation", ["ReceiveMessage", "DeleteMessage", "*"])
@pytest.mark.parametrize("error", [BROKEN, DENIED, ResponseLost()])
def test_a_call_fails_before_its_effect(operation: str, error: AwsError | ResponseLost) -> None:
    world = QueueWorld()
    world.send("a")
    [message] = world.receive()
    world.model.faults.on_call(operation, error)
    with pytest.raises(type(error)):
        world.receive() if operation == "ReceiveMessage" else world.delete(message)
    assert world.numbers() == (0, 1, 0)


def test_the_answer_of_a_deletion_is_lost_but_not_the_deletion() -> None:
    world = QueueWorld()
    world.send("a")
    [message] = world.receive()
    world.model.faults.on_call("DeleteMessage", ResponseLost(), after_effect=True)
    with pytest.raises(ResponseLost):
        world.delete(message)
    world.delete(message)
    assert world.numbers() == (0, 0, 0)


def test_messages_whose_answer_was_lost_come_again() -> None:
    world = QueueWorld()
    world.send("a")
    world.model.faults.on_call("ReceiveMessage", ResponseLost(), after_effect=True)
    with pytest.raises(ResponseLost):
        world.receive()
    assert world.receive() == []
    world.now += 30
    assert world.bodies() == ["a"]


def test_a_deleted_message_can_come_back() -> None:
    world = QueueWorld()
    world.send("a")
    world.model.faults.on_delete()
    world.delete(world.receive()[0])
    assert world.receive() == []
    world.now += 30
    [message] = world.receive()
    world.delete(message)
    world.now += 30
    assert world.receive() == []


def test_an_outage_of_hours_keeps_what_comes_meanwhile() -> None:
    world = QueueWorld()
    rule = world.model.faults.on_call("*", BROKEN, times=None)
    for n in range(3):
        world.model.deliver("q", {"n": n}, world.now)
        with pytest.raises(AwsError):
            world.receive()
        world.now += 3600
    world.model.faults.remove(rule)
    assert len(world.receive()) == 3
    assert world.model.stats()["operations"]["ReceiveMessage"] == {"answered": 1, "failed": 3}


@pytest.mark.parametrize("nonsense", [{"copies": -1}, {"delay": -1.0}, {"spread": -1.0}, {"times": 0}])
def test_faults_that_make_no_sense_are_refused_with_a_sentence(nonsense: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(nonsense))):
        QueueWorld().model.faults.on_delivery(**nonsense)


@pytest.mark.parametrize("seed", range(20))
def test_no_message_is_lost_or_given_to_two_whatever_happens(seed: int) -> None:
    chance = random.Random(seed)
    world = QueueWorld(VisibilityTimeout="20", MessageRetentionPeriod="1209600")
    dead = redrive(world, 4)
    sent: set[str] = set()
    deleted: set[str] = set()
    held: dict[str, tuple[float, dict[str, Any]]] = {}
    for step in range(200):
        world.now += chance.choice([0, 0.5, 3, 11])
        for message_id in [message_id for message_id, (until, _) in held.items() if until <= world.now]:
            del held[message_id]
        match chance.randrange(4):
            case 0:
                world.send(str(step), DelaySeconds=chance.choice([0, 5]))
                sent.add(str(step))
            case 1:
                for message in world.receive(chance.randint(1, 10)):
                    assert message["MessageId"] not in held
                    assert message["Body"] not in deleted
                    held[message["MessageId"]] = (world.now + 20, message)
            case 2 if held:
                message_id = chance.choice(sorted(held))
                _, message = held.pop(message_id)
                world.delete(message)
                deleted.add(message["Body"])
            case 3 if held:
                message_id = chance.choice(sorted(held))
                timeout = chance.randint(0, 40)
                _, message = held.pop(message_id)
                world.call("ChangeMessageVisibility", ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=timeout)
                if timeout:
                    held[message_id] = (world.now + timeout, message)
    world.now += 100
    left = {body for url in (world.url, dead) for body in iter_all(world, url)}
    assert left | deleted == sent
    assert not left & deleted


def iter_all(world: QueueWorld, url: str) -> list[str]:
    """All that can be received from a queue, and from its dead-letter queue afterwards."""
    bodies: list[str] = []
    while messages := world.bodies(QueueUrl=url):
        bodies += messages
    return bodies
