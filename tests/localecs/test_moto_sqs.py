"""The same calls against moto's SQS and against ours, field by field, where moto behaves like SQS.

Where it does not there is nothing to compare; docs/local-ecs.md lists that.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from reconciler.localecs import LocalEcs, Settings

if TYPE_CHECKING:
    from collections.abc import Callable

DOCS = Path(__file__).parents[2] / "docs" / "local-ecs.md"
MESSAGE_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

# Every call and field that is compared. docs/local-ecs.md repeats the list.
COMPARED = [
    "CreateQueue QueueUrl",
    "CreateQueue the same again: QueueUrl",
    "CreateQueue with another attribute: error code",
    "CreateQueue with a wrong name: error code",
    "GetQueueUrl QueueUrl",
    "GetQueueUrl unknown: error code",
    "GetQueueUrl unknown: error message",
    "GetQueueAttributes without names: Attributes",
    "GetQueueAttributes QueueArn",
    "GetQueueAttributes VisibilityTimeout",
    "GetQueueAttributes MessageRetentionPeriod",
    "GetQueueAttributes DelaySeconds",
    "GetQueueAttributes ReceiveMessageWaitTimeSeconds",
    "GetQueueAttributes ApproximateNumberOfMessages",
    "GetQueueAttributes ApproximateNumberOfMessagesNotVisible",
    "GetQueueAttributes ApproximateNumberOfMessagesDelayed",
    "GetQueueAttributes RedrivePolicy",
    "GetQueueAttributes unknown name: error code",
    "SendMessage MD5OfMessageBody",
    "SendMessage MessageId",
    "SendMessage unknown queue: error code",
    "SendMessage DelaySeconds=901: error code",
    "ReceiveMessage Messages[].Body",
    "ReceiveMessage Messages[].MD5OfBody",
    "ReceiveMessage Messages[].MessageId",
    "ReceiveMessage Messages[].Attributes names",
    "ReceiveMessage Messages[].Attributes.ApproximateReceiveCount",
    "ReceiveMessage default: number of messages",
    "ReceiveMessage what is in flight: answer",
    "ReceiveMessage after the visibility timeout: ApproximateReceiveCount",
    "ReceiveMessage after the visibility timeout: another ReceiptHandle",
    "ReceiveMessage MaxNumberOfMessages=11: error code",
    "ReceiveMessage WaitTimeSeconds=21: error code",
    "ReceiveMessage VisibilityTimeout=43201: error code",
    "ReceiveMessage dead-letter queue: Messages[].Body",
    "ReceiveMessage dead-letter queue: number of messages left in the source",
    "ChangeMessageVisibility to 0: number of messages received",
    "ChangeMessageVisibility beyond 12 hours: error code",
    "ChangeMessageVisibility wrong handle: error code",
    "DeleteMessage answer",
    "DeleteMessage again: answer",
    "DeleteMessage wrong handle: error code",
    "DeleteMessage number of messages left",
    "DeleteMessageBatch Successful",
    "DeleteMessageBatch Failed[].Id",
    "DeleteMessageBatch Failed[].Code",
    "DeleteMessageBatch Failed[].SenderFault",
    "DeleteMessageBatch Failed[].Message",
    "DeleteMessageBatch empty: error code",
]


def code(call: Callable[[], Any]) -> str:
    """The error code of a call. That there is none is noted, and found in the comparison."""
    try:
        call()
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return "no error"


def story(client: Any) -> dict[str, Any]:
    """One course of events; what was answered, by the names of COMPARED."""
    noted: dict[str, Any] = {}

    def note(name: str, value: Any) -> None:
        noted[name] = value

    def path(url: str) -> str:
        return url.partition("://")[2].partition("/")[2]

    def plain(answer: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in answer.items() if name != "ResponseMetadata"}

    dead = client.create_queue(QueueName="dead")["QueueUrl"]
    dead_arn = client.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    attributes = {"VisibilityTimeout": "1"}
    url = client.create_queue(QueueName="q", Attributes=attributes)["QueueUrl"]
    note("CreateQueue QueueUrl", path(url))
    again = client.create_queue(QueueName="q", Attributes=attributes)
    note("CreateQueue the same again: QueueUrl", path(again["QueueUrl"]))
    differs = code(lambda: client.create_queue(QueueName="q", Attributes={"VisibilityTimeout": "2"}))
    note("CreateQueue with another attribute: error code", differs)
    note("CreateQueue with a wrong name: error code", code(lambda: client.create_queue(QueueName="no queue")))
    note("GetQueueUrl QueueUrl", path(client.get_queue_url(QueueName="q")["QueueUrl"]))
    with pytest.raises(client.exceptions.QueueDoesNotExist) as caught:
        client.get_queue_url(QueueName="nowhere")
    note("GetQueueUrl unknown: error code", caught.value.response["Error"]["Code"])
    note("GetQueueUrl unknown: error message", caught.value.response["Error"]["Message"])

    policy = json.dumps({"deadLetterTargetArn": dead_arn, "maxReceiveCount": 3})
    client.set_queue_attributes(QueueUrl=url, Attributes={"RedrivePolicy": policy})

    bodies = ["a", "b", "c", "d"]
    sent = [client.send_message(QueueUrl=url, MessageBody=body) for body in bodies]
    client.send_message(QueueUrl=url, MessageBody="later", DelaySeconds=900)
    note("SendMessage MD5OfMessageBody", [answer["MD5OfMessageBody"] for answer in sent])
    note("SendMessage MessageId", [bool(MESSAGE_ID.fullmatch(answer["MessageId"])) for answer in sent])
    lost = code(lambda: client.send_message(QueueUrl=f"{url}-not", MessageBody="a"))
    note("SendMessage unknown queue: error code", lost)
    late = code(lambda: client.send_message(QueueUrl=url, MessageBody="a", DelaySeconds=901))
    note("SendMessage DelaySeconds=901: error code", late)

    receive = {"QueueUrl": url, "MessageSystemAttributeNames": ["All"], "MaxNumberOfMessages": 10}
    first = client.receive_message(QueueUrl=url, VisibilityTimeout=600)["Messages"]
    note("ReceiveMessage default: number of messages", len(first))
    messages = client.receive_message(**receive, VisibilityTimeout=600)["Messages"]
    note("ReceiveMessage Messages[].Body", [message["Body"] for message in messages])
    note("ReceiveMessage Messages[].MD5OfBody", [message["MD5OfBody"] for message in messages])
    ids = [message["MessageId"] == answer["MessageId"] for message, answer in zip(messages, sent[1:], strict=True)]
    note("ReceiveMessage Messages[].MessageId", ids)
    names = [sorted(message["Attributes"]) for message in messages]
    note("ReceiveMessage Messages[].Attributes names", names)
    counts = [message["Attributes"]["ApproximateReceiveCount"] for message in messages]
    note("ReceiveMessage Messages[].Attributes.ApproximateReceiveCount", counts)
    note("ReceiveMessage what is in flight: answer", plain(client.receive_message(**receive)))

    found = client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    note("GetQueueAttributes without names: Attributes", plain(client.get_queue_attributes(QueueUrl=url)))
    for name in ("QueueArn", "VisibilityTimeout", "MessageRetentionPeriod", "DelaySeconds"):
        note(f"GetQueueAttributes {name}", found[name])
    note("GetQueueAttributes ReceiveMessageWaitTimeSeconds", found["ReceiveMessageWaitTimeSeconds"])
    for kind in ("", "NotVisible", "Delayed"):
        note(f"GetQueueAttributes ApproximateNumberOfMessages{kind}", found[f"ApproximateNumberOfMessages{kind}"])
    note("GetQueueAttributes RedrivePolicy", json.loads(found["RedrivePolicy"]))
    wrong = code(lambda: client.get_queue_attributes(QueueUrl=url, AttributeNames=["Colour"]))
    note("GetQueueAttributes unknown name: error code", wrong)

    for name, value in (("MaxNumberOfMessages", 11), ("WaitTimeSeconds", 21), ("VisibilityTimeout", 43201)):
        refused = code(lambda name=name, value=value: client.receive_message(QueueUrl=url, **{name: value}))  # type: ignore[misc]
        note(f"ReceiveMessage {name}={value}: error code", refused)

    handle = {"QueueUrl": url, "ReceiptHandle": messages[0]["ReceiptHandle"]}
    far = code(lambda: client.change_message_visibility(**handle, VisibilityTimeout=43201))
    note("ChangeMessageVisibility beyond 12 hours: error code", far)
    client.change_message_visibility(**handle, VisibilityTimeout=0)
    back = client.receive_message(**receive, VisibilityTimeout=1)["Messages"]
    note("ChangeMessageVisibility to 0: number of messages received", len(back))
    wrong_handle = {"QueueUrl": url, "ReceiptHandle": "nonsense"}
    refused = code(lambda: client.change_message_visibility(**wrong_handle, VisibilityTimeout=1))
    note("ChangeMessageVisibility wrong handle: error code", refused)
    [later] = client.receive_message(**receive, WaitTimeSeconds=20, VisibilityTimeout=0)["Messages"]
    count = later["Attributes"]["ApproximateReceiveCount"]
    note("ReceiveMessage after the visibility timeout: ApproximateReceiveCount", count)
    other = later["ReceiptHandle"] != back[0]["ReceiptHandle"]
    note("ReceiveMessage after the visibility timeout: another ReceiptHandle", other)
    note(
        "ReceiveMessage dead-letter queue: number of messages left in the source",
        plain(client.receive_message(**receive)),
    )
    given_up = client.receive_message(QueueUrl=dead)["Messages"]
    note("ReceiveMessage dead-letter queue: Messages[].Body", [message["Body"] for message in given_up])

    deletion = {"QueueUrl": url, "ReceiptHandle": first[0]["ReceiptHandle"]}
    note("DeleteMessage answer", plain(client.delete_message(**deletion)))
    note("DeleteMessage again: answer", plain(client.delete_message(**deletion)))
    note("DeleteMessage wrong handle: error code", code(lambda: client.delete_message(**wrong_handle)))
    left = client.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessagesNotVisible"])
    note("DeleteMessage number of messages left", left["Attributes"])
    entries = [{"Id": str(n), "ReceiptHandle": message["ReceiptHandle"]} for n, message in enumerate(messages[1:])]
    entries.append({"Id": "x", "ReceiptHandle": "nonsense"})
    batch = client.delete_message_batch(QueueUrl=url, Entries=entries)
    note("DeleteMessageBatch Successful", batch["Successful"])
    for name in ("Id", "Code", "SenderFault", "Message"):
        note(f"DeleteMessageBatch Failed[].{name}", [failed[name] for failed in batch["Failed"]])
    empty = code(lambda: client.delete_message_batch(QueueUrl=url, Entries=[]))
    note("DeleteMessageBatch empty: error code", empty)
    return noted


@pytest.fixture(scope="module")
def of_moto() -> dict[str, Any]:
    with mock_aws():
        client = boto3.session.Session("anything", "goes", region_name="us-east-1").client("sqs")
        noted = story(client)
        client.close()
    return noted


@pytest.fixture(scope="module")
def of_ours() -> dict[str, Any]:
    with LocalEcs(settings=Settings.unthrottled(), task_definition=False) as server:
        session = boto3.session.Session("anything", "goes", region_name="us-east-1")
        client = session.client("sqs", endpoint_url=server.endpoint_url)
        noted = story(client)
        client.close()
    return noted


@pytest.mark.parametrize("name", COMPARED)
def test_moto_and_ours_agree_on(name: str, of_moto: dict[str, Any], of_ours: dict[str, Any]) -> None:
    assert of_ours[name] == of_moto[name]


def test_what_is_compared_is_all_that_is_noted_and_at_least_forty(of_ours: dict[str, Any]) -> None:
    assert set(COMPARED) == set(of_ours)
    assert len(COMPARED) >= 40


def test_the_docs_list_every_comparison() -> None:
    lines = set(DOCS.read_text().splitlines())
    assert [name for name in COMPARED if f"- {name}" not in lines] == []
