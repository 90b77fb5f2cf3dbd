"""What is said of clock, quota and roles of queues, from AWS's answers."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import EndpointConnectionError, NoCredentialsError

from reconciler.doctor.aws import check_clock, check_quota, check_rates, check_role
from tests.doctor.account import DEFINITION, PROFILE, ROLE, account, lines, refusal

if TYPE_CHECKING:
    from reconciler.core.runtask import Profile
    from reconciler.doctor.aws import Aws

NOW = datetime(2026, 1, 1, tzinfo=UTC)


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
        (THEIRS, refusal("AccessDenied"), "with EKS Pod Identity both allow sts:TagSession as well"),
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
