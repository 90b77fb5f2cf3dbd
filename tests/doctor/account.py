"""An AWS account whose services answer what a test says, and what the daemon would run there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from botocore.exceptions import ClientError

from reconciler.core.runtask import Profile
from reconciler.doctor.aws import Aws

PROFILE = Profile(
    cluster="airflow", container_name="main", run_task={"taskDefinition": "task:3", "launchType": "FARGATE"}
)
DEFINITION = {
    "taskDefinitionArn": "arn:aws:ecs:eu-central-1:123456789012:task-definition/task:3",
    "taskRoleArn": "arn:aws:iam::123456789012:role/task",
    "executionRoleArn": "arn:aws:iam::123456789012:role/exec",
    "cpu": "1024",
}
ROLE = "arn:aws:iam::123456789012:role/path/daemon"


def refusal(code: str, **headers: str) -> ClientError:
    answer: Any = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPHeaders": headers}}
    return ClientError(answer, "Anything")


def account(ecs: Any = None, endpoint: str = "https://ecs.eu-central-1.amazonaws.com", **services: Any) -> Aws:
    """An account whose services answer what the test says: values, or errors to raise."""

    def answering(answers: dict[str, Any]) -> Any:
        def method(answer: Any) -> Any:
            def call(*_: str, **asked: Any) -> Any:
                found = answer(**asked) if callable(answer) else answer
                if isinstance(found, Exception):
                    raise found
                return found

            return call

        return SimpleNamespace(**{name: method(answer) for name, answer in answers.items()})

    client = answering(ecs or {})
    client.meta = SimpleNamespace(endpoint_url=endpoint)
    made: Any = SimpleNamespace(client=lambda service, **_: answering(services[service.replace("-", "_")]))
    return Aws(made, "eu-central-1", client)


def lines(found: Any) -> list[str]:
    return [f"{f.level}: {f}" for f in found]
