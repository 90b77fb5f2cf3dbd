"""The RunTask request: exact parameters in and out, and what a DAG author may not ask for."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator
from hypothesis import given
from hypothesis import strategies as st

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


@pytest.mark.parametrize("member", ["cluster", "count", "clientToken", "startedBy", "referenceId"])
def test_identity_and_place_are_never_the_authors(member: str) -> None:
    with pytest.raises(runtask.RequestRefusedError, match=f"sets {member}, but only the operator"):
        plan({member: "x"})


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"name": "x"}, "name"),
        ({"command": ["x"]}, "command"),
        (container(command=["x"]), r"overrides.containerOverrides\[\].command"),
        ({"overrides": {"inferenceAcceleratorOverrides": []}}, "overrides.inferenceAcceleratorOverrides"),
        ({"anythingNew": 1}, "anythingNew"),
    ],
)
def test_what_is_not_allowed_is_named(config: dict[str, Any], path: str) -> None:
    with pytest.raises(runtask.RequestRefusedError, match=f"sets {path}, but it is not one a DAG may set"):
        plan(config)


@pytest.mark.parametrize(
    ("member", "config"),
    [
        ("taskRoleArn", {"overrides": {"taskRoleArn": "arn"}}),
        ("executionRoleArn", {"overrides": {"executionRoleArn": "arn"}}),
        ("enableExecuteCommand", {"enableExecuteCommand": True}),
        ("volumeConfigurations", {"volumeConfigurations": []}),
    ],
)
def test_rights_are_granted_only_by_an_option_that_the_refusal_names(member: str, config: dict[str, Any]) -> None:
    with pytest.raises(runtask.RequestRefusedError, match=f"allowed_run_task_parameters = {member}"):
        plan(config)
    allowing = runtask.Profile(
        cluster="airflow", container_name="main", run_task=PROFILE.run_task, allowed=frozenset({member})
    )
    assert plan(config, allowing)["cluster"] == "airflow"


@pytest.mark.parametrize(
    "name", ["AIRFLOW__CORE__FERNET_KEY", "AWS_ACCESS_KEY_ID", "LD_PRELOAD", "PATH", "ECS_RECONCILER_EXEC_ID"]
)
def test_reserved_variables_can_not_be_set(name: str) -> None:
    with pytest.raises(runtask.RequestRefusedError, match=f"reserved environment variable {name}"):
        plan(container(environment=[{"name": name, "value": "x"}]))


@pytest.mark.parametrize(
    "config",
    [
        ["not", "a", "mapping"],
        {"overrides": "x"},
        {"overrides": {"containerOverrides": {"name": "main"}}},
        {"overrides": {"containerOverrides": ["main"]}},
        {"overrides": {"containerOverrides": [{"cpu": 1}]}},
        container(environment=[{"name": "A", "value": 1}]),
        container(environment=["A=1"]),
        container(environment="A=1"),
        container(environment=None),
    ],
)
def test_a_wrong_shape_is_refused_in_words(config: Any) -> None:
    with pytest.raises(runtask.RequestRefusedError, match="executor_config"):
        plan(config)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=8,
)
members = st.sampled_from(["overrides", "tags", "cluster", "count", "launchType", "containerOverrides", "name"])


@given(st.dictionaries(members | st.text(max_size=5), json_values, max_size=4))
def test_whatever_an_author_writes_is_planned_or_refused_and_never_moves_the_task(config: dict[str, Any]) -> None:
    try:
        request = plan(config)
    except runtask.RequestRefusedError:
        return
    assert (request["cluster"], request["count"]) == ("airflow", 1)
    assert request["overrides"]["containerOverrides"][0]["name"] == "main"


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
