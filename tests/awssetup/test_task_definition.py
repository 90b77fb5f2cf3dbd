"""`ecs-reconciler render task-definition`."""

from __future__ import annotations

import json
from typing import Any

import boto3
import pytest
import yaml
from botocore.validate import validate_parameters

from reconciler.awssetup import template
from reconciler.cli import main
from reconciler.localecs import LocalEcs

ROLE = "arn:aws:iam::123456789012:role/airflow-exec"
COMMAND = ("render", "task-definition", "--image", "example/airflow:1", "--region", "eu-central-1")


def rendered(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*COMMAND, "--execution-role-arn", ROLE, *arguments]) == 0
    request: dict[str, Any] = json.loads(capsys.readouterr().out)
    return request


def test_it_is_a_request_that_botocore_and_an_ecs_accept(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = rendered(capsys, "--task-role-arn", ROLE, "--family", "f", "--cpu", "256", "--memory", "512")
    session = boto3.Session("key", "secret")
    with LocalEcs() as ecs:
        client = session.client("ecs", region_name="us-east-1", endpoint_url=ecs.endpoint_url)
        shape = client.meta.service_model.operation_model("RegisterTaskDefinition").input_shape
        assert shape is not None
        validate_parameters(request, shape)
        shown = client.register_task_definition(**request)["taskDefinition"]
        client.close()
    assert (shown["family"], shown["containerDefinitions"][0]["name"]) == ("f", "airflow")


def test_it_is_what_the_template_makes(capsys: pytest.CaptureFixture[str]) -> None:
    """One shape of a task definition, in two places."""

    request = rendered(capsys)
    made = yaml.safe_load(template([]))["Resources"]["TaskDefinition"]["Properties"]

    def lowered(value: Any) -> Any:
        if isinstance(value, dict):
            return {(k[:1].lower() + k[1:] if "-" not in k else k): lowered(v) for k, v in value.items()}
        return [lowered(item) for item in value] if isinstance(value, list) else value

    def shape(value: Any, other: Any) -> Any:
        """What both say in plain values; parameters of the template are left out."""
        if (
            isinstance(value, dict)
            and isinstance(other, dict)
            and value.keys().isdisjoint({"ref", "fn::If", "fn::Sub"})
        ):
            assert value.keys() - {"taskRoleArn"} == other.keys() - {"taskRoleArn"}
            return {key: shape(value[key], other[key]) for key in value.keys() & other.keys()}
        if isinstance(value, list) and isinstance(other, list):
            return [shape(*pair) for pair in zip(value, other, strict=True)]
        return None if isinstance(value, dict) else (value, other)

    def pairs(value: Any) -> list[tuple[Any, Any]]:
        if isinstance(value, dict):
            return [pair for item in value.values() for pair in pairs(item)]
        if isinstance(value, list):
            return [pair for item in value for pair in pairs(item)]
        return [] if value is None else [value]

    compared = pairs(shape(lowered(made), request))
    assert len(compared) >= 8
    assert all(one == other for one, other in compared)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--execution-role-arn", "airflow-exec"), "--execution-role-arn 'airflow-exec' is not the ARN of a role"),
        (("--cpu", "512", "--memory", "512"), "with 512 CPU units Fargate runs 1024"),
        (("--cpu", "300"), "Fargate runs 256, 512"),
        (("--family", "a b"), "--family 'a b'"),
    ],
)
def test_what_is_wrong_is_named(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], sentence: str) -> None:
    assert main([*COMMAND, "--execution-role-arn", ROLE, *arguments]) == 2
    assert sentence in capsys.readouterr().err
