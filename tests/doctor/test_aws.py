"""What is said of account, clock and quota, from AWS's answers."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError

from reconciler.core.runtask import Profile
from reconciler.doctor.aws import (
    Aws,
    check_account,
    check_clock,
    check_quota,
    check_rates,
    check_role,
    needed_actions,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
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


def dated(at: datetime) -> dict[str, Any]:
    return {"ResponseMetadata": {"HTTPHeaders": {"date": format_datetime(at, usegmt=True)}}}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (dated(NOW), "ok: clock: agrees with AWS"),
        (dated(NOW.replace(minute=2)), "error: clock: 120 s off from AWS's"),
        (refusal("AccessDeniedException", date=format_datetime(NOW, usegmt=True)), "ok: clock"),
        (refusal("ExpiredTokenException"), "error: AWS credentials: An error occurred (ExpiredTokenException)"),
        (NoCredentialsError(), "error: AWS credentials: Unable to locate credentials"),
        (
            EndpointConnectionError(endpoint_url="https://ecs.mars.amazonaws.com/"),
            'error: AWS: Could not connect to the endpoint URL: "https://ecs.mars.amazonaws.com/"; is region_name = ',
        ),
    ],
)
def test_clock_and_credentials(answer: Any, words: str) -> None:
    (line,) = lines(check_clock(account({"describe_clusters": answer}), "airflow", NOW.timestamp))
    assert words in line


def simulate(denied: str) -> Any:
    def answer(**asked: Any) -> Any:
        assert asked["PolicySourceArn"] == ROLE
        (action,) = asked["ActionNames"]
        decision = "implicitDeny" if action == denied else "allowed"
        return {"EvaluationResults": [{"EvalDecision": decision, "EvalResourceName": r} for r in asked["ResourceArns"]]}

    return answer


STS = {"get_caller_identity": {"Arn": "arn:aws:sts::123456789012:assumed-role/daemon/session"}}


@pytest.mark.parametrize("action", sorted(needed_actions(PROFILE, DEFINITION)))
def test_a_right_that_is_missing_is_named_with_what_it_is_missing_on(action: str) -> None:
    iam = {"get_role": {"Role": {"Arn": ROLE}}, "simulate_principal_policy": simulate(action)}
    found = lines(check_account(account(sts=STS, iam=iam), PROFILE, DEFINITION))
    errors = [line for line in found if line.startswith("error")]
    assert len(errors) == len(needed_actions(PROFILE, DEFINITION)[action])
    assert all(f"may not {action} on " in line and ROLE in line for line in errors)


def test_both_roles_of_the_task_are_asked_about() -> None:
    assert needed_actions(PROFILE, DEFINITION)["iam:PassRole"] == [
        DEFINITION["taskRoleArn"],
        DEFINITION["executionRoleArn"],
    ]
    assert "iam:PassRole" not in needed_actions(PROFILE, {"taskDefinitionArn": "x"})


def test_rights_that_can_not_be_seen_are_no_error() -> None:
    iam = {"get_role": refusal("AccessDenied")}
    found = lines(check_account(account(sts=STS, iam=iam), PROFILE, DEFINITION))
    assert [line.partition(":")[0] for line in found] == ["ok", "note"]
    assert "iam:SimulatePrincipalPolicy" in found[1]


def test_where_there_is_no_aws_nothing_is_asked() -> None:
    (line,) = lines(check_account(account(endpoint="http://127.0.0.1:4569"), PROFILE, DEFINITION))
    assert "is not AWS" in line


@pytest.mark.parametrize(
    ("value", "profile", "words"),
    [
        (500.0, PROFILE, "ok: quota of FARGATE vCPUs: 500, and 500 tasks of 1 vCPU need 500"),
        (6.0, PROFILE, "max_running_vcpus to 6"),
        (
            6.0,
            replace(PROFILE, run_task={**PROFILE.run_task, "overrides": {"cpu": "0.25 vCPU"}}),
            "500 tasks of 0.25 vCPU need 125; raise it in Service Quotas, or set [ecs_reconciler] max_running_vcpus",
        ),
        (
            6.0,
            replace(PROFILE, run_task={"capacityProviderStrategy": [{"capacityProvider": "FARGATE_SPOT"}]}),
            "quota of FARGATE_SPOT vCPUs",
        ),
    ],
)
def test_the_accounts_vcpus_are_compared_with_what_all_tasks_need(value: float, profile: Profile, words: str) -> None:
    quotas = {"get_service_quota": {"Quota": {"Value": value}}}
    (line,) = lines(check_quota(account(service_quotas=quotas), 500, profile, DEFINITION))
    assert words in line


def test_a_limit_of_our_own_is_compared_instead_if_it_is_lower() -> None:
    quotas = {"get_service_quota": {"Quota": {"Value": 100.0}}}
    (line,) = lines(check_quota(account(service_quotas=quotas), 500, PROFILE, DEFINITION, 80 * 1024))
    assert "but max_running_vcpus keeps them to 80" in line
    assert line.startswith("ok")


def test_a_quota_that_can_not_be_read_is_a_note() -> None:
    quotas = {"get_service_quota": refusal("AccessDeniedException")}
    (line,) = lines(check_quota(account(service_quotas=quotas), 500, PROFILE, DEFINITION))
    assert line.startswith("note: quota of FARGATE vCPUs: could not be read (servicequotas:GetServiceQuota)")


def test_ec2_has_no_quota_of_vcpus_that_counts() -> None:
    on_ec2 = replace(PROFILE, run_task={"launchType": "EC2"})
    assert lines(check_quota(account(), 500, on_ec2, DEFINITION)) == []


THEIRS = "arn:aws:iam::210987654321:role/airflow"


@pytest.mark.parametrize(
    ("role", "answer", "words"),
    [
        (THEIRS, {}, f"ok: [ecs_reconciler] queues, role_arn {THEIRS}: can be assumed"),
        (THEIRS, refusal("AccessDenied"), "can not be assumed: An error occurred (AccessDenied)"),
        (THEIRS, NoCredentialsError(), "can not be assumed: Unable to locate credentials; allow the daemon's role sts"),
        (ROLE, {}, f"warning: [ecs_reconciler] queues, role_arn {ROLE}: is of our own account"),
    ],
)
def test_a_queues_role_can_be_assumed_and_is_another_accounts(role: str, answer: Any, words: str) -> None:
    ours = account(sts={"get_caller_identity": {"Account": "123456789012"}})
    (line,) = lines(check_role(ours, account(sts={"get_caller_identity": answer}), role))
    assert words in line


def quotas(*found: tuple[str, float] | Exception) -> Aws:
    """An account that shows these of Fargate's quotas."""

    def paginate(**asked: Any) -> Any:
        assert asked == {"ServiceCode": "fargate"}
        for quota in found:
            if isinstance(quota, Exception):
                raise quota
            yield {"Quotas": [{"QuotaName": quota[0], "Value": quota[1]}]}

    return account(service_quotas={"get_paginator": SimpleNamespace(paginate=paginate)})


VCPUS = ("Fargate On-Demand vCPU resource count", 6.0)


@pytest.mark.parametrize(
    ("aws", "rate", "burst", "profile", "words"),
    [
        (quotas(VCPUS), 19.8, 16, PROFILE, "ok: [ecs_reconciler] launch_rate: 19.8 calls a second, of the 20"),
        (quotas(VCPUS), 25, 16, PROFILE, "warning: [ecs_reconciler] launch_rate: 25 calls a second and 16 at once"),
        (quotas(VCPUS), 19.8, 50, PROFILE, "warning: [ecs_reconciler] launch_rate: 19.8 calls a second and 50 at once"),
        (quotas(VCPUS, ("On-Demand launch rate", 50)), 40, 50, PROFILE, "this account's 'On-Demand launch rate' is 50"),
        (quotas(), 40, 100, replace(PROFILE, run_task={"launchType": "EC2"}), "ok: [ecs_reconciler] launch_rate: 40"),
        (quotas(), 41, 100, replace(PROFILE, run_task={"launchType": "EC2"}), "AWS publishes 40 and 100"),
    ],
)
def test_launches_are_no_faster_than_the_account_may(
    aws: Aws, rate: float, burst: int, profile: Profile, words: str
) -> None:
    (line,) = lines(check_rates(aws, rate, burst, profile))
    assert words in line


def test_without_a_look_at_the_quotas_what_aws_publishes_counts() -> None:
    found = lines(check_rates(quotas(refusal("AccessDeniedException")), 25, 16, PROFILE))
    assert [line.partition(":")[0] for line in found] == ["note", "warning"]
    assert "servicequotas:ListServiceQuotas" in found[0]
