"""Names that are functions of what they name, so that repeating a call is recognising it."""

from __future__ import annotations

import base64
import hashlib
import re
import uuid
from typing import Final

__all__ = ["DEPLOYMENT", "Launched", "client_token", "cluster_of", "derived_exec_id", "jitter", "parse_started_by"]
__all__ += ["place_of", "started_by"]

DEPLOYMENT: Final = re.compile(r"[A-Za-z0-9_-]{1,40}")
"""The form of a deployment's name: it is the first part of `startedBy`, which has 128 characters."""

_TASK_ARN: Final = re.compile(r"arn:aws[\w-]*:ecs:([\w-]+):\d+:task/([\w-]+)/[\w-]+")
"""https://docs.aws.amazon.com/AmazonECS/latest/developerguide/ecs-account-settings.html#ecs-resource-arn-format"""

_ATTEMPT: Final = re.compile(r"[0-9]{1,9}")

_NAMESPACE: Final = uuid.UUID("3f1b1f0c-6a55-5a4e-9d0a-7f2f6c1d9e21")

Launched = tuple[str, int]
"""(exec_id, attempt): names at most one ECS task, ever."""


def client_token(cluster: str, exec_id: str, attempt: int) -> str:
    """RunTask's `clientToken` of a launch: 52 characters, always the same for the same launch.

    ECS keeps tokens per cluster: https://docs.aws.amazon.com/AmazonECS/latest/APIReference/ECS_Idempotency.html
    """
    digest = hashlib.sha256(f"{cluster}\n{exec_id}\n{attempt}".encode()).digest()
    return base64.b32encode(digest).decode().rstrip("=")


def started_by(deployment: str, exec_id: str, attempt: int) -> str:
    """RunTask's `startedBy`: whose task this is, for good. Tags go when a task is stopped, this stays."""
    return f"{deployment}/{exec_id}/{attempt}"


def parse_started_by(value: str | None, deployment: str) -> Launched | None:
    """The launch that `value` names, or None if the task is not one of this deployment."""
    parts = (value or "").split("/")
    if len(parts) != 3 or parts[0] != deployment or not parts[1] or not _ATTEMPT.fullmatch(parts[2]):
        return None
    return parts[1], int(parts[2])


def place_of(task_arn: str) -> tuple[str, str] | None:
    """The region and the cluster's name in the ARN of an ECS task, or None if it is not one."""
    found = _TASK_ARN.fullmatch(task_arn)
    return (found.group(1), found.group(2)) if found else None


def cluster_of(task_arn: str) -> str | None:
    """The name of the cluster in the ARN of an ECS task, or None if it is not one."""
    place = place_of(task_arn)
    return place and place[1]


def derived_exec_id(*facts: object) -> str:
    """A UUID from stable facts, for a queueing to which Airflow gives none. The same facts give the same UUID."""
    return str(uuid.uuid5(_NAMESPACE, "\n".join(str(fact) for fact in facts)))


def jitter(exec_id: str, attempt: int) -> float:
    """A number in [0, 1) that differs between launches and never between two looks at one launch."""
    digest = hashlib.sha256(f"jitter\n{exec_id}\n{attempt}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32
