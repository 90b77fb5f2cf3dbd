"""The RunTask request: exact parameters in and out, and what a DAG author may not ask for."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator

from reconciler.core import runtask

PROFILE = runtask.Profile(
    cluster="airflow",
    container_name="main",
    run_task={"taskDefinition": "airflow-task:3", "launchType": "FARGATE", "tags": [{"key": "a", "value": "1"}]},
    environment={"AIRFLOW__CORE__EXECUTION_API_SERVER_URL": "http://api/execution/"},
)
OURS = [
    {"name": "AIRFLOW_IS_EXECUTOR_CONTAINER", "value": "true"},
    {"name": "AIRFLOW__CORE__EXECUTION_API_SERVER_URL", "value": "http://api/execution/"},
    {"name": "ECS_RECONCILER_EXEC_ID", "value": "x"},
]


def plan(config: dict[str, Any], profile: runtask.Profile = PROFILE) -> dict[str, Any]:
    return runtask.plan(profile, "x", config)


def container(**members: Any) -> dict[str, Any]:
    return {"overrides": {"containerOverrides": [{"name": "main", **members}]}}


def test_without_executor_config_it_is_what_the_operator_configured() -> None:
    assert plan({}) == {
        "cluster": "airflow",
        "count": 1,
        "taskDefinition": "airflow-task:3",
        "launchType": "FARGATE",
        "tags": [{"key": "a", "value": "1"}],
        "overrides": {"containerOverrides": [{"name": "main", "environment": OURS}]},
    }


def test_mappings_are_merged_and_lists_replaced() -> None:
    request = plan({"tags": [{"key": "b", "value": "2"}], "overrides": {"cpu": "1024"}})
    assert request["tags"] == [{"key": "b", "value": "2"}]
    assert request["overrides"]["cpu"] == "1024"
    assert request["overrides"]["containerOverrides"] == [{"name": "main", "environment": OURS}]


def test_our_environment_is_added_to_the_authors() -> None:
    request = plan(container(cpu=256, environment=[{"name": "MODE", "value": "full"}]))
    (ours,) = request["overrides"]["containerOverrides"]
    assert ours == {"name": "main", "cpu": 256, "environment": [{"name": "MODE", "value": "full"}, *OURS]}


def test_the_operators_own_address_of_the_api_wins_and_identity_never_does() -> None:
    own = [
        {"name": "AIRFLOW__CORE__EXECUTION_API_SERVER_URL", "value": "http://own/"},
        {"name": "ECS_RECONCILER_EXEC_ID", "value": "forged"},
    ]
    profile = replace(PROFILE, run_task={**PROFILE.run_task, **container(environment=own)})
    (ours,) = plan({}, profile)["overrides"]["containerOverrides"]
    assert {v["name"]: v["value"] for v in ours["environment"]} == {
        "AIRFLOW_IS_EXECUTOR_CONTAINER": "true",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": "http://own/",
        "ECS_RECONCILER_EXEC_ID": "x",
    }
    assert len(ours["environment"]) == 3


def test_a_sidecars_override_stays_beside_ours() -> None:
    request = plan({"overrides": {"containerOverrides": [{"name": "proxy", "memory": 64}]}})
    assert [c["name"] for c in request["overrides"]["containerOverrides"]] == ["main", "proxy"]


def test_the_authors_mapping_is_left_as_it_was() -> None:
    config = container(environment=[{"name": "MODE", "value": "full"}])
    before = json.dumps(config)
    plan(config)
    plan(config)
    assert json.dumps(config) == before


def test_the_whole_request_suits_the_service_model_of_the_sdk() -> None:
    request = runtask.compose(plan({}), ["python", "-m", "x"], "token", "prod/x/1")
    model = botocore.session.get_session().get_service_model("ecs").operation_model("RunTask")
    assert model.input_shape is not None
    assert not ParamValidator().validate(request, model.input_shape).has_errors()
    assert request["overrides"]["containerOverrides"][0]["command"] == ["python", "-m", "x"]
    assert (request["clientToken"], request["startedBy"]) == ("token", "prod/x/1")


def test_overrides_that_ecs_would_refuse_for_their_size_are_refused_before() -> None:
    room = runtask.OVERRIDES_LIMIT - len(
        json.dumps(runtask.compose(plan({}), [""], "t", "s")["overrides"], separators=(",", ":"))
    )
    runtask.compose(plan({}), ["x" * room], "t", "s")
    with pytest.raises(runtask.RequestRefusedError, match="8193 characters long and ECS takes 8192"):
        runtask.compose(plan({}), ["x" * (room + 1)], "t", "s")


@pytest.mark.parametrize("name", ["family", "family:7", "arn:aws:ecs:eu-west-1:1:task-definition/family:7"])
def test_the_family_of_a_task_definition(name: str) -> None:
    assert runtask.family_of(name) == "family"
