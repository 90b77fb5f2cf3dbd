"""The option `events_queue_url`: one queue for an account and region, there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.test_config import problems, settings

HERE = "https://sqs.eu-central-1.amazonaws.com/123456789012/airflow-events"
FAR = {"region_name": "us-east-1", "max_running_tasks": 5}
ROLE = "arn:aws:iam::999999999999:role/runner"


def configured(url: str | None = None, **queues: dict[str, Any]) -> dict[str, str | None]:
    return {"ecs_reconciler__events_queue_url": url, "ecs_reconciler__queues": json.dumps(queues)}


@pytest.mark.parametrize(
    "url",
    [
        HERE,
        "https://eu-central-1.queue.amazonaws.com/123456789012/q",
        "https://sqs.eu-central-1.api.aws/123456789012/q",
        "https://vpce-1-2.sqs.eu-central-1.vpce.amazonaws.com/123456789012/q",
        "http://127.0.0.1:4566/123456789012/q",
        "http://localstack:4566/000000000000/q",
    ],
)
def test_a_queue_of_the_region_or_of_this_machine_is_taken(url: str) -> None:
    found = settings(**configured(url)).profiles
    assert found.events_queue("eu-central-1") == url


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("airflow-events", "is not the URL of a queue"),
        ("arn:aws:sqs:eu-central-1:123456789012:q", "is not the URL of a queue"),
        ("https://sqs.eu-central-1.amazonaws.com/", "does not end with an account and the name of a queue"),
        ("https://u:p@sqs.eu-central-1.amazonaws.com/1/q", "does not end with"),
        ("http://sqs.eu-central-1.amazonaws.com/123456789012/q", "is not encrypted"),
        ("https://sqs.eu-west-1.amazonaws.com/123456789012/q", "is a queue in eu-west-1, but the tasks run in eu-cen"),
        ("https://queue.amazonaws.com/123456789012/q", "is a queue in us-east-1"),
        (f"{HERE}.fifo", "is a FIFO queue"),
        ("http://[::1/q", "is not a URL"),
    ],
)
def test_what_is_wrong_is_said_with_what_would_be_right(url: str, words: str) -> None:
    (problem,) = problems(**configured(url))
    assert problem.startswith("[ecs_reconciler] events_queue_url: ")
    assert words in problem


def test_each_account_and_region_has_its_own() -> None:
    there = "https://sqs.us-east-1.amazonaws.com/123456789012/q"
    found = settings(**configured(HERE, near={}, far={**FAR, "events_queue_url": there}, deaf={**FAR})).profiles
    assert found.events_queue("eu-central-1") == HERE
    assert found.events_queue("us-east-1") == there
    assert found.events_queue("ap-south-1") is None


def test_a_queue_elsewhere_does_not_inherit_the_one_of_here() -> None:
    found = settings(**configured(HERE, far={**FAR}, other={**FAR, "role_arn": ROLE})).profiles
    assert found.events_queue("us-east-1") is None
    assert found.events_queue("us-east-1/999999999999") is None


@pytest.mark.parametrize(
    ("queues", "words"),
    [
        ({"far": {**FAR, "events_queue_url": HERE}}, '"far": events_queue_url: '),
        ({"near": {"events_queue_url": f"{HERE}2"}}, "eu-central-1 has one queue of events"),
        (
            {"other": {**FAR, "role_arn": ROLE, "events_queue_url": "https://sqs.us-east-1.amazonaws.com/111111111111/q"}},
            "is a queue of account 111111111111, but the tasks run in account 999999999999",
        ),
    ],
)  # fmt: skip
def test_a_queue_of_events_in_the_wrong_place_is_named(queues: dict[str, Any], words: str) -> None:
    (problem,) = problems(**configured(HERE, **queues))
    assert words in problem
