"""Options: all problems at once, each with its name and what would be right."""

from __future__ import annotations

from datetime import timedelta

import pytest

from reconciler.config import ConfigError, DaemonSettings, Read, daemon_settings, shim_settings

COMPLETE = {
    ("ecs_reconciler", "deployment"): "prod",
    ("database", "sql_alchemy_conn"): "sqlite:///x.db",
    ("core", "execution_api_server_url"): "http://api/execution/",
    ("aws_ecs_executor", "cluster"): "airflow",
    ("aws_ecs_executor", "container_name"): "main",
    ("aws_ecs_executor", "region_name"): "eu-central-1",
    ("aws_ecs_executor", "task_definition"): "airflow-task:3",
}


SECONDS = ("start_timeout", "retention", "lease_seconds", "sweep_interval", "listing_interval", "orphan_grace")


def reader(**changes: str | None) -> Read:
    """The complete configuration, with changes given as `section__option=value`."""
    values: dict[tuple[str, str], str | None] = dict(COMPLETE)
    for name, value in changes.items():
        section, option = name.split("__", 1)
        values[section, option] = value
    return lambda section, option: values.get((section, option))


def settings(**changes: str | None) -> DaemonSettings:
    return daemon_settings(reader(**changes))


def problems(**changes: str | None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        settings(**changes)
    return caught.value.problems


def test_a_complete_configuration_has_defaults_for_the_rest() -> None:
    found = settings()
    assert found.options.max_running_tasks == 500
    assert found.policy.max_run_task_attempts == 3
    assert found.profiles.default.run_task == {
        "taskDefinition": "airflow-task:3",
        "platformVersion": "LATEST",
        "count": 1,
    }
    assert found.profiles.default.environment == {"AIRFLOW__CORE__EXECUTION_API_SERVER_URL": "http://api/execution/"}


def test_everything_that_is_missing_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        daemon_settings(lambda *_: None)
    text = str(caught.value)
    for option in ("deployment", "cluster", "container_name", "region_name", "task_definition"):
        assert f"{option} is not set" in text
        assert option.upper() in text
    assert "[ecs_reconciler] sql_alchemy_conn is not set" in text
    assert "[ecs_reconciler] execution_api_server_url is not set" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ecs_reconciler__deployment": "two words"}, ["[ecs_reconciler] deployment", "'two words'"]),
        ({"ecs_reconciler__max_running_tasks": "many"}, ["max_running_tasks", "'many'", "integer"]),
        ({"ecs_reconciler__launch_rate": "0"}, ["launch_rate", "greater than 0"]),
        ({"aws_ecs_executor__launch_type": "LAMBDA"}, ["launch_type", "'LAMBDA'", "FARGATE"]),
        ({"aws_ecs_executor__run_task_kwargs": "{oops"}, ["run_task_kwargs", "neither JSON nor a Python literal"]),
        ({"aws_ecs_executor__security_groups": "sg-1"}, ["subnets is empty"]),
        ({"aws_ecs_executor__assign_public_ip": "perhaps"}, ["assign_public_ip", "'perhaps'"]),
        ({"aws_ecs_executor__capacity_provider_strategy": "spot"}, ["strategy", "neither JSON nor a Python literal"]),
        ({"aws_ecs_executor__capacity_provider_strategy": '[{"weight": 1}]'}, ["capacityProvider", "each"]),
        ({"aws_ecs_executor__run_task_kwargs": "[]"}, ["run_task_kwargs", "JSON object"]),
        ({"aws_ecs_executor__run_task_kwargs": '{"launch_type": "LAMBDA"}'}, ["launch_type", "'LAMBDA'"]),
        ({"aws_ecs_executor__subnets": ",".join("abcdefghijklmnopq")}, ["subnets", "at most 16"]),
        ({"aws_ecs_executor__region_name": "EU (Frankfurt)"}, ["region_name", "can not be one", "eu-central-1"]),
        ({"aws_ecs_executor__capacity_provider_strategy": "{}"}, ["capacity_provider_strategy", "JSON list"]),
        ({"aws_ecs_executor__run_task_kwargs": '{"overrides": 5}'}, ["kwargs: overrides must be an object"]),
        ({"aws_ecs_executor__run_task_kwargs": '{"network_configuration": []}'}, ["networkConfiguration must be"]),
        (
            {"aws_ecs_executor__run_task_kwargs": '{"overrides": {"container_overrides": {"name": "main"}}}'},
            ["kwargs: overrides.containerOverrides must be a list of objects"],
        ),
        (
            {"aws_ecs_executor__run_task_kwargs": '{"overrides": {"containerOverrides": [{"environment": {"A": 1}}]}}'},
            ["kwargs: environment must be a list of objects", '{"name": "A", "value": "1"}'],
        ),
        ({"aws_ecs_executor__run_task_kwargs": "{1: 2}"}, ["run_task_kwargs: ", "1 should be a valid string"]),
        ({"ecs_reconciler__queues": "{1: {}}"}, ["[ecs_reconciler] queues: ", "1 should be a valid string"]),
        ({"ecs_reconciler__queues": '{"gpu": 3}'}, ['queues: "gpu": 3 should be a JSON object']),
        (
            {"ecs_reconciler__allowed_run_task_parameters": "count"},
            ["allowed_run_task_parameters: 'count' can not be used: 'count' is not one of", "taskRoleArn"],
        ),
    ],
)
def test_a_wrong_value_is_named_with_what_would_be_right(change: dict[str, str], words: list[str]) -> None:
    (problem,) = problems(**change)
    for word in words:
        assert word in problem


@pytest.mark.parametrize(
    ("option", "values"),
    [
        *((seconds, ["inf", "nan", "1e14", "1e400"]) for seconds in SECONDS),
        ("max_running_vcpus", ["inf", "nan", "1e14", "1e400"]),
        ("launch_rate", ["inf", "nan", "1e14", "1e400"]),
        *((count, ["inf", "nan", "1" + 400 * "0"]) for count in ("max_running_tasks", "backlog", "launch_burst")),
    ],
)
def test_a_number_that_nothing_could_be_reckoned_with_is_refused(option: str, values: list[str]) -> None:
    for value in values:
        (problem,) = problems(**{f"ecs_reconciler__{option}": value})
        assert problem.startswith(f"[ecs_reconciler] {option}: ")


def test_ten_years_are_a_time_and_more_are_a_slip() -> None:
    found = settings(ecs_reconciler__start_timeout="315360000", ecs_reconciler__retention="3.1536e8")
    assert found.longest_start_timeout == timedelta(days=3650)
    (problem,) = problems(ecs_reconciler__start_timeout="315360001")
    assert "start_timeout: '315360001' should be less than or equal to 315360000" in problem


def test_launch_type_and_strategy_exclude_one_another() -> None:
    strategy = '[{"capacityProvider": "FARGATE_SPOT"}]'
    (problem,) = problems(
        aws_ecs_executor__launch_type="FARGATE", aws_ecs_executor__capacity_provider_strategy=strategy
    )
    assert "exclude one another" in problem


def test_a_password_is_not_repeated() -> None:
    found = problems(ecs_reconciler__lease_seconds="x", database__sql_alchemy_conn="postgresql://a:hunter2@b/c")
    assert "hunter2" not in str(found)


def test_our_own_database_and_api_address_win_over_airflows() -> None:
    found = settings(ecs_reconciler__sql_alchemy_conn="sqlite:///own.db", ecs_reconciler__execution_api_server_url="u")
    assert found.sql_alchemy_conn == "sqlite:///own.db"
    assert found.profiles.default.environment["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "u"


@pytest.mark.parametrize(
    ("conn_id", "aws_conn_id", "expected"),
    [
        (None, "mine", "mine"),
        # What an unset one reads as, where the Amazon provider has registered its default.
        ("aws_default", "mine", "mine"),
        ("aws_default", None, "aws_default"),
        ("first", "mine", "first"),
        (None, None, None),
    ],
)
def test_the_documentations_name_for_the_connection_is_accepted(
    conn_id: str | None, aws_conn_id: str | None, expected: str | None
) -> None:
    found = settings(aws_ecs_executor__conn_id=conn_id, aws_ecs_executor__aws_conn_id=aws_conn_id)
    assert found.ecs.conn_id == expected


LITERALS = (
    "ecs_reconciler__queues",
    "aws_ecs_executor__run_task_kwargs",
    "aws_ecs_executor__capacity_provider_strategy",
)


@pytest.mark.parametrize("option", LITERALS)
@pytest.mark.parametrize(
    "text",
    [
        '{{"gpu": {}}}',  # braces of a template: a set of a mapping
        pytest.param("[" * 200_000 + "]" * 200_000, id="deep"),
        pytest.param("-" * 100_000 + "1", id="deep in another way"),
        "\0",
    ],
)
def test_text_that_no_parser_takes_is_refused_in_words(option: str, text: str) -> None:
    (problem,) = problems(**{option: text})
    assert option.split("__")[1] in problem
    assert "is neither JSON nor a Python literal" in problem


def test_the_shim_says_the_same_of_its_queues() -> None:
    with pytest.raises(ConfigError, match=r"\[ecs_reconciler\] queues: .* is neither JSON nor a Python literal"):
        shim_settings(reader(ecs_reconciler__queues='{{"gpu": {}}}'))


def test_a_name_that_is_not_text_within_run_task_kwargs_is_left_to_what_boto3_says() -> None:
    found = settings(aws_ecs_executor__run_task_kwargs="{'network_configuration': {1: 2}}")
    assert found.profiles.default.run_task["networkConfiguration"] == {1: 2}


def test_the_shim_needs_a_deployment_and_no_aws() -> None:
    found = shim_settings(lambda _, option: {"deployment": "prod"}.get(option))
    assert (found.deployment, found.max_running_tasks, found.max_run_task_attempts) == ("prod", 500, 3)
    with pytest.raises(ConfigError, match="deployment is not set"):
        shim_settings(lambda *_: None)
