"""A running local ECS and boto3 clients for it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config

from reconciler.localecs import LocalEcs, Settings
from tests.localecs.conformance import answer_problems

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def ecs(tmp_path: Path) -> Iterator[LocalEcs]:
    """A server that runs processes, without rate limits."""
    with LocalEcs(settings=Settings.unthrottled(), directory=tmp_path, stop_grace=0.5) as running:
        yield running


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Makes unmodified boto3 clients that are pointed to a server by the environment, and checks all they are told."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "anything")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "goes")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    clients: list[Any] = []

    def check(operation_model: Any, response_dict: Any, **_: Any) -> None:
        if response_dict["status_code"] == 200:
            service, answer = operation_model.service_model.service_name, json.loads(response_dict["body"])
            assert answer_problems(operation_model.name, answer, service) == []

    def connect(server: LocalEcs, service: Any = "ecs", **config: Any) -> Any:
        monkeypatch.setenv(f"AWS_ENDPOINT_URL_{service.upper()}", server.endpoint_url)
        retries = {"total_max_attempts": 1}
        client = boto3.session.Session().client(service, config=Config(**{"retries": retries, **config}))
        client.meta.events.register(f"before-parse.{service}", check)
        clients.append(client)
        return client

    yield connect
    for client in clients:
        client.close()
