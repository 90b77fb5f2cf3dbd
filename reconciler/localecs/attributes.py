"""The attributes of a queue of SQS: which there are, within which limits, and what they are when nobody says.

Source: https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SetQueueAttributes.html
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from reconciler.localecs.errors import AwsError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DEFAULTS", "READ_ONLY", "bad_value", "checked", "redrive"]

DEFAULTS: Final[Mapping[str, str]] = {
    "DelaySeconds": "0",
    "MaximumMessageSize": "1048576",
    "MessageRetentionPeriod": "345600",
    "ReceiveMessageWaitTimeSeconds": "0",
    "SqsManagedSseEnabled": "true",
    "VisibilityTimeout": "30",
}
LIMITS: Final[Mapping[str, tuple[int, int]]] = {
    "DelaySeconds": (0, 900),
    "MaximumMessageSize": (1024, 1048576),
    "MessageRetentionPeriod": (60, 1209600),
    "ReceiveMessageWaitTimeSeconds": (0, 20),
    "VisibilityTimeout": (0, 43200),
}
WITHOUT_LIMITS: Final = ("Policy", "RedrivePolicy", "SqsManagedSseEnabled")
READ_ONLY: Final = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesDelayed",
    "ApproximateNumberOfMessagesNotVisible",
    "CreatedTimestamp",
    "LastModifiedTimestamp",
    "QueueArn",
)


def checked(given: Mapping[str, str]) -> dict[str, str]:
    """The attributes that a request sets, or InvalidAttributeName, or InvalidAttributeValue."""
    for name, value in given.items():
        if name in LIMITS:
            low, high = LIMITS[name]
            if not value.isdecimal() or not low <= int(value) <= high:
                raise AwsError("InvalidAttributeValue", f"Invalid value for the parameter {name}.")
        elif name not in WITHOUT_LIMITS:
            raise AwsError("InvalidAttributeName", f"Unknown Attribute {name}.")
    return dict(given)


def redrive(policy: str) -> tuple[str, int]:
    """The ARN of the dead-letter queue, and after how many receipts a message goes there."""
    try:
        said = json.loads(policy)
        arn, receives = str(said["deadLetterTargetArn"]), int(said["maxReceiveCount"])
    except (ValueError, KeyError, TypeError):
        raise bad_value("RedrivePolicy", policy, "It needs deadLetterTargetArn and maxReceiveCount.") from None
    if not 1 <= receives <= 1000:
        raise bad_value("RedrivePolicy", policy, "Invalid value for maxReceiveCount: must be between 1 and 1000.")
    return arn, receives


def bad_value(name: str, value: object, reason: str) -> AwsError:
    """The error for a parameter with a value that it can not have."""
    return AwsError("InvalidParameterValue", f"Value {value} for parameter {name} is invalid. Reason: {reason}")
