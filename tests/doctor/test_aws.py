"""What is said of account, clock and quota, from AWS's answers."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError, NoCredentialsError

from reconciler.core.runtask import Profile
from reconciler.doctor.aws import Aws, check_account, check_clock, check_quota, needed_actions

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
            def call(**asked: Any) -> Any:
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
