"""`ecs_config`, and the tags that every ECS task gets."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator
from hypothesis import given
from hypothesis import strategies as st

from reconciler.airflow import ecs_config
from reconciler.core import runtask
from reconciler.core.task import TaskKey, Workload

PROFILE = runtask.Profile(
    cluster="airflow",
    container_name="main",
    run_task={"taskDefinition": "airflow-task:3", "tags": [{"key": "owner", "value": "platform"}]},
)
W = Workload("x", "prod", key=TaskKey("etl", "load", "manual__2026-01-01T00:00:00+00:00", 3, 1))


def plan(config: dict[str, Any], w: Workload = W, profile: runtask.Profile = PROFILE) -> dict[str, Any]:
    return runtask.plan(profile, w.exec_id, config, runtask.cost_tags(w))


def tags_of(request: dict[str, Any]) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in request["tags"]}


def test_each_argument_becomes_its_parameter_of_run_task() -> None:
    config = ecs_config(
        cpu=1024, memory="8 GB", env={"MODE": "full"}, task_definition="etl:7", tags={"team": "data science"}
    )
    assert config == {
        "taskDefinition": "etl:7",
        "tags": [{"key": "team", "value": "data science"}],
        "overrides": {
            "cpu": "1024",
            "memory": "8192",
            "containerOverrides": [{"environment": [{"name": "MODE", "value": "full"}]}],
        },
    }
    request = plan(config)
    (container,) = request["overrides"]["containerOverrides"]
    assert container["name"] == "main"
    assert container["environment"][0] == {"name": "MODE", "value": "full"}
    model = botocore.session.get_session().get_service_model("ecs").operation_model("RunTask").input_shape
    assert model is not None
    assert not ParamValidator().validate(request, model).has_errors()


def test_what_is_left_out_stays_as_it_is_configured() -> None:
    assert ecs_config() == {}
    assert ecs_config(env={}) == {}


@pytest.mark.parametrize(
    ("given_cpu", "units"), [(256, "256"), ("512", "512"), ("1 vCPU", "1024"), (".25vcpu", "256"), ("16 VCPU", "16384")]
)
def test_cpu_in_units_or_in_words(given_cpu: int | str, units: str) -> None:
    assert ecs_config(cpu=given_cpu)["overrides"]["cpu"] == units


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"cpu": 0}, ValueError, "cpu is 0: give CPU units such as 512"),
        ({"cpu": -1}, ValueError, "cpu is -1"),
        ({"cpu": True}, TypeError, "cpu is True"),
        ({"cpu": 0.5}, TypeError, "cpu is 0.5"),
        ({"cpu": "2 GB"}, ValueError, "cpu is '2 GB'"),
        ({"cpu": "0.0001 vCPU"}, ValueError, "cpu is"),
        ({"memory": "much"}, ValueError, "memory is 'much': give MiB such as 2048, or text such as '2 GB'"),
        ({"env": {"N": 1}}, TypeError, "env must be a mapping of text to text"),
        ({"env": ["A=1"]}, TypeError, "env must be a mapping"),
        ({"env": {"AWS_ACCESS_KEY_ID": "x"}}, ValueError, "reserved environment variable 'AWS_ACCESS_KEY_ID'"),
        ({"env": {"A": "x\0"}}, ValueError, "holds a NUL"),
        ({"task_definition": " "}, ValueError, "task_definition must be a family"),
        ({"tags": {"a": "x" * 257}}, ValueError, "is not one that AWS takes"),
        ({"tags": {"": "x"}}, ValueError, "is not one that AWS takes"),
        ({"tags": {"a": "50 %"}}, ValueError, "is not one that AWS takes"),
        ({"tags": {"aws:x": "y"}}, ValueError, "AWS keeps aws: for itself"),
        ({"tags": {str(n): "" for n in range(51)}}, ValueError, "51 tags are more than the 50"),
    ],
)
def test_a_mistake_is_an_error_where_the_dag_is_written(arguments: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        ecs_config(**arguments)


def test_a_dag_file_that_imports_it_is_read_no_slower() -> None:
    """Only the standard library and a handful of our own modules, which have nothing to load."""
    script = (
        "import json, sys, re, fnmatch, enum, dataclasses, unicodedata, datetime, typing; before = set(sys.modules)\n"
        "from reconciler.airflow import ecs_config; print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    foreign = [name for name in eval(done.stdout) if name.split(".")[0] not in ("reconciler", *sys.stdlib_module_names)]  # noqa: S307 - our own output
    assert foreign == []
    ours = [name for name in eval(done.stdout) if name.startswith("reconciler.")]  # noqa: S307 - the same
    assert {name.split(".")[1] for name in ours} <= {"airflow", "core"}


def test_every_ecs_task_says_what_it_is_run_for() -> None:
    assert tags_of(plan({}, replace(W, team="sales"))) == {
        "owner": "platform",
        "airflow:dag_id": "etl",
        "airflow:task_id": "load",
        "airflow:run_id": "manual__2026-01-01T00:00:00+00:00",
        "airflow:team": "sales",
    }


def test_the_tags_can_be_switched_off_and_are_no_callbacks() -> None:
    assert tags_of(plan({}, profile=replace(PROFILE, cost_tags=False))) == {"owner": "platform"}
    assert tags_of(plan({}, Workload("x", "prod"))) == {"owner": "platform"}


def test_nobody_forges_a_bill() -> None:
    request = plan({"tags": [{"key": "airflow:dag_id", "value": "somebody else's"}, {"key": "mine", "value": "1"}]})
    assert [tag["value"] for tag in request["tags"] if tag["key"] == "airflow:dag_id"] == ["etl"]
    assert tags_of(request)["mine"] == "1"


def test_there_are_never_more_tags_than_ecs_takes() -> None:
    many = [{"key": str(n), "value": ""} for n in range(48)]
    assert len(plan({"tags": many})["tags"]) == 50


@given(st.text(max_size=300))
def test_any_id_makes_a_tag_that_aws_takes(name: str) -> None:
    w = replace(W, key=TaskKey(name, "t", "r", -1, 1))
    value = runtask.cost_tags(w).get("airflow:dag_id", "")
    assert len(value) <= 256
    assert runtask.tag_text(value, 256) == value
    assert "<" not in value
    assert "\n" not in value
