"""A queue of SQS that loses, doubles, delays and fails as it is told to."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from reconciler.localecs import AwsError, ResponseLost
from tests.localecs.world import QueueWorld

GONE = "AWS.SimpleQueueService.NonExistentQueue"
BROKEN = AwsError("ServiceUnavailable", "Service is unable to handle request.", 503)
DENIED = AwsError("AccessDenied", "Access to the resource is denied.", 403)


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
    dead = world.redrive(4)
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
