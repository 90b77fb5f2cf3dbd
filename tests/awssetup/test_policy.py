"""The daemon's policy allows what the daemon calls, and nothing else.

What it calls is found twice: botocore records one call of each of the gateway's methods, and the code is searched for
calls of clients, so that one that no test makes is found as well.
"""

from __future__ import annotations

import ast
import fnmatch
import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore import xform_name

from reconciler.clock import SystemClock
from reconciler.core import decide, runtask
from reconciler.core.answer import Accepted
from reconciler.core.finding import Level
from reconciler.core.task import Workload
from reconciler.doctor.rights import check_account, needed_actions
from reconciler.ecs.client import make_client
from reconciler.ecs.gateway import Gateway
from reconciler.ecs.ratelimit import Limiter
from reconciler.localecs import LocalEcs, Settings
from tests.awssetup.conftest import REGION, deploy
from tests.docs.pages import blocks
from tests.doctor.account import account

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).parents[2] / "reconciler"
DOCS = SOURCE.with_name("docs")
FAMILY, CLUSTER = "airflow-task", "default"
PREFIX = f"arn:aws:ecs:{REGION}:123456789012"
SERVICES = {"ecs": "ecs", "sqs": "sqs", "logs": "logs", "service-quotas": "servicequotas", "sts": "sts", "iam": "iam"}
"""Services that the code is searched for, with their names in policies."""
OTHER_ACTION = {
    "sqs:DeleteMessageBatch": "sqs:DeleteMessage",
    "sqs:ChangeMessageVisibilityBatch": "sqs:ChangeMessageVisibility",
    # Everybody may: https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html
    "sts:GetCallerIdentity": None,
}
"""Operations that are not authorised under their own name."""
DEPENDENT = {"iam:PassRole", "ecs:TagResource"}
"""What RunTask needs besides, for roles and tags. Source: Service Authorization Reference, Amazon ECS, RunTask."""
FROM_THE_QUEUE = {"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"}
"""What reading `[ecs_reconciler] events_queue_url` takes."""
IN_ANOTHER_ACCOUNT = {"sts:AssumeRole"}
"""What a queue's `role_arn` takes: allowed for the roles that QueueRoleArns names, and without one not at all."""
OF_A_TAGGED_SESSION = {"sts:TagSession"}
"""What it takes besides from a session whose tags go along. No call names it."""
OIDC = "arn:aws:iam::123456789012:oidc-provider/oidc.eks.us-east-1.amazonaws.com/id/ABC"


@pytest.fixture
def policies(aws: boto3.Session) -> dict[str, list[dict[str, Any]]]:
    """The statements of each policy as CloudFormation resolves them, for a cluster that is there, by output."""
    aws.client("ecs").create_cluster(clusterName=CLUSTER)
    found = deploy(aws, f"Deployment={FAMILY}", f"ClusterName={CLUSTER}")
    return {name: _statements(aws, found[name]) for name in ("DaemonPolicyArn", "LogReaderPolicyArn")}


@pytest.fixture
def policy(policies: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The daemon's."""
    return policies["DaemonPolicyArn"]


def _statements(aws: boto3.Session, arn: str) -> list[dict[str, Any]]:
    iam = aws.client("iam")
    version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
    document = iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"]
    statements: list[dict[str, Any]] = document["Statement"]
    return statements


def allowed(policy: list[dict[str, Any]], action: str, resource: str, context: dict[str, str]) -> bool:
    """Whether a statement allows this: IAM's rules, as far as this policy uses them."""

    def fits(statement: dict[str, Any]) -> bool:
        tests = statement.get("Condition", {}).values()
        return (
            statement["Effect"] == "Allow"
            and action in _list(statement["Action"])
            and any(fnmatch.fnmatchcase(resource, pattern) for pattern in _list(statement["Resource"]))
            and all(context.get(key) == value for test in tests for key, value in test.items())
        )

    return any(fits(statement) for statement in policy)


def _list(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def actions(policy: list[dict[str, Any]]) -> set[str]:
    return {action for statement in policy for action in _list(statement["Action"])}


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """(operation, parameters) of every call that the gateway can make. Made after the moto fixtures have ended."""
    calls: list[tuple[str, dict[str, Any]]] = []
    now = datetime(2026, 1, 1, tzinfo=UTC)
    clock = SystemClock()
    with LocalEcs(settings=Settings.unthrottled(), seed=1) as ecs:
        monkeypatch.setenv("AWS_ENDPOINT_URL_ECS", ecs.endpoint_url)
        client = make_client(REGION, threads=2, session=boto3.Session("key", "secret"))
        client.meta.events.register(
            "provide-client-params.ecs", lambda params, model, **_: calls.append((model.name, params))
        )
        gateway = Gateway(
            client,
            Limiter(clock, launch_rate=1000, launch_burst=1000),
            clock,
            deployment="test",
            now=lambda: now,
            resend_for=timedelta(minutes=20),
            on_call=lambda *_: None,
        )
        methods = {name for name in vars(Gateway) if not name.startswith("_")} - {"close"}
        workload = _launching(now)
        answer = gateway.run(workload, ["true"])
        assert isinstance(answer, Accepted)
        arn = answer.task.arn
        gateway.describe(CLUSTER, [arn])
        gateway.list_tasks(CLUSTER, FAMILY, stopped=True)
        gateway.stop(CLUSTER, arn, "test")
        gateway.describe_cluster(CLUSTER)
        gateway.describe_task_definition(FAMILY)
        called = {"run", "describe", "list_tasks", "stop", "describe_cluster", "describe_task_definition"}
        assert called == methods, "the gateway has methods that are not recorded here"
        gateway.close()
        yield calls


def _launching(now: datetime) -> Workload:
    tags = [{"key": "team", "value": "data"}]
    profile = runtask.Profile(
        cluster=CLUSTER,
        container_name="airflow",
        run_task={
            "taskDefinition": FAMILY,
            "launchType": "FARGATE",
            "networkConfiguration": {"awsvpcConfiguration": {"subnets": ["subnet-1"]}},
            "tags": tags,
        },
    )
    pending = replace(Workload(exec_id="w-1", deployment="test"), attempt=0)
    params = runtask.plan(profile, "w-1", {})
    return decide.intended(pending, now, profile=profile, family=FAMILY, params=params)


def resource_of(operation: str, parameters: dict[str, Any]) -> str:
    """The ARN that AWS authorises a call by."""
    if operation == "RunTask":
        return f"{PREFIX}:task-definition/{parameters['taskDefinition']}:7"
    if operation in ("DescribeTasks", "StopTask"):
        return f"{PREFIX}:task/{CLUSTER}/0123456789abcdef"
    if operation == "DescribeClusters":
        return f"{PREFIX}:cluster/{parameters['clusters'][0]}"
    return "*"


def named_in_the_code(inside_airflow: bool = False) -> set[str]:
    """Actions of every call of an AWS client that the code holds, by the names of boto3's methods.

    A client is what is called so: `client`, `self._client`, `sqs_client`. Either of the daemon, or of what runs inside
    Airflow; local ECS and demo are neither. Nor is `doctor`, a person's command: what its own looks at IAM and quotas
    are not allowed to see, it notes.
    """
    session: Any = boto3.Session()
    methods: dict[str, set[str]] = {}
    for service, prefix in SERVICES.items():
        model = session.client(service, region_name=REGION).meta.service_model
        for operation in model.operation_names:
            methods.setdefault(xform_name(operation), set()).add(f"{prefix}:{operation}")
    found: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        folder = path.relative_to(SOURCE).parts[0]
        if folder in ("localecs", "demo", "doctor") or (folder == "airflow") != inside_airflow:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("client"):
                found |= methods.get(node.attr, set())
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "get_paginator"
            ):
                found |= methods.get(ast.literal_eval(node.args[0]), set())
    return {action for name in found if (action := OTHER_ACTION.get(name, name)) is not None}


def test_nothing_else_is_in_it(policy: list[dict[str, Any]]) -> None:
    assert actions(policy) == (named_in_the_code() - IN_ANOTHER_ACCOUNT) | DEPENDENT


def test_the_daemon_may_read_the_queue_of_events_and_no_other(policy: list[dict[str, Any]]) -> None:
    (statement,) = [s for s in policy if any(action.startswith("sqs:") for action in _list(s["Action"]))]
    assert set(_list(statement["Action"])) == FROM_THE_QUEUE
    (queue,) = _list(statement["Resource"])
    assert queue.startswith(f"arn:aws:sqs:{REGION}:123456789012:")
    assert "*" not in queue


def copied() -> list[dict[str, Any]]:
    """The statements of docs/migrating.md, for this account."""
    (block,) = [block for block in blocks(DOCS / "migrating.md") if '"Statement"' in block.text]
    text = re.sub(r":R:A:", f":{REGION}:123456789012:", block.text).replace("::A:", "::123456789012:")
    statements: list[dict[str, Any]] = json.loads(re.sub(r"\b(cluster|task)/C\b", rf"\1/{CLUSTER}", text))["Statement"]
    return statements


def test_the_pages_name_the_same_actions(policy: list[dict[str, Any]]) -> None:
    """The policy to be copied, for those who do not use the template, and the table that explains it."""
    assert actions(copied()) == actions(policy)
    table = (DOCS / "security.md").read_text().partition("| action | for | limited to |")[2].partition("\n\n")[0]
    first = "".join(row.split("|")[1] for row in table.splitlines() if row.startswith("| `"))
    # What other accounts need is in the template for those who name roles there.
    assert set(re.findall(r"`(\w+:\w+)`", first)) == actions(policy) | IN_ANOTHER_ACCOUNT | OF_A_TAGGED_SESSION


@pytest.mark.parametrize(
    ("settings", "tagged"),
    [
        (["DaemonIdentity=pod-identity"], True),
        # Of the role to which the policy is attached by hand nothing is known.
        (["DaemonIdentity=none"], True),
        (["DaemonIdentity=irsa", f"OidcProviderArn={OIDC}"], False),
        (["DaemonIdentity=ec2"], False),
    ],
)
def test_roles_of_other_accounts_may_be_assumed_if_they_are_named(
    aws: boto3.Session, settings: list[str], tagged: bool
) -> None:
    """A session of EKS Pod Identity has tags, which go along to the next role, and that takes a right of its own:
    https://docs.aws.amazon.com/eks/latest/userguide/pod-id-abac.html
    """
    roles = [f"arn:aws:iam::{account}:role/airflow" for account in ("210987654321", "345678901234")]
    found = deploy(aws, f"QueueRoleArns={','.join(roles)}", *settings, QueueRoleArns=",".join(roles))
    policy = _statements(aws, found["DaemonPolicyArn"])
    for role in roles:
        assert allowed(policy, "sts:AssumeRole", role, {})
        assert allowed(policy, "sts:TagSession", role, {}) == tagged
        for action in IN_ANOTHER_ACCOUNT | OF_A_TAGGED_SESSION:
            assert not allowed(policy, action, role.replace("airflow", "admin"), {})
    assert actions(policy) == named_in_the_code() | DEPENDENT | (OF_A_TAGGED_SESSION if tagged else set())


def test_the_api_server_may_read_logs_and_nothing_else(policies: dict[str, list[dict[str, Any]]]) -> None:
    (statement,) = policies["LogReaderPolicyArn"]
    assert set(_list(statement["Action"])) == named_in_the_code(inside_airflow=True)
    assert f"log-group:/ecs/{FAMILY}" in statement["Resource"]


def asked_about(policy: list[dict[str, Any]]) -> tuple[runtask.Profile, dict[str, Any]]:
    """A profile that needs all there is, and its task definition, of the roles and with the queue of a policy."""
    on = {action: _list(s["Resource"]) for s in policy for action in _list(s["Action"])}
    roles = dict(zip(("executionRoleArn", "taskRoleArn"), on["iam:PassRole"], strict=True))
    (queue,) = on["sqs:ReceiveMessage"]
    url = f"https://sqs.{REGION}.amazonaws.com/123456789012/{queue.rpartition(':')[2]}"
    run_task = {"taskDefinition": FAMILY}
    profile = runtask.Profile(cluster=CLUSTER, container_name="airflow", run_task=run_task, events_queue_url=url)
    return profile, {"taskDefinitionArn": f"{PREFIX}:task-definition/{FAMILY}:7", "family": FAMILY, **roles}


def test_doctor_asks_for_each_action_that_is_in_it_and_for_no_other(policy: list[dict[str, Any]]) -> None:
    assert set(needed_actions(*asked_about(policy))) == actions(policy)


@pytest.mark.parametrize("whose", ["the template", "the page"])
def test_doctor_finds_nothing_wrong_with_a_role_of_this_policy(policy: list[dict[str, Any]], whose: str) -> None:
    """Resources and context of its questions are those of the calls."""
    statements = policy if whose == "the template" else copied()

    def simulate(**asked: Any) -> Any:
        (action,), (resource,) = asked["ActionNames"], asked["ResourceArns"]
        context = {entry["ContextKeyName"]: entry["ContextKeyValues"][0] for entry in asked["ContextEntries"]}
        decision = "allowed" if allowed(statements, action, resource, context) else "implicitDeny"
        return {"EvaluationResults": [{"EvalDecision": decision}]}

    user = {"get_caller_identity": {"Arn": "arn:aws:iam::123456789012:user/daemon"}}
    iam = {"simulate_principal_policy": simulate}
    aws = account(sts=user, iam=iam, sqs={"get_queue_attributes": {}})
    assert [str(f) for f in check_account(aws, *asked_about(statements)) if f.level is not Level.OK] == []


def test_the_search_finds_what_the_gateway_calls(recorded: list[tuple[str, dict[str, Any]]]) -> None:
    assert {f"ecs:{operation}" for operation, _ in recorded} <= named_in_the_code()


def test_every_recorded_call_is_allowed(recorded: list[tuple[str, dict[str, Any]]], request: Any) -> None:
    policy = request.getfixturevalue("policy")
    inside = {"ecs:cluster": f"{PREFIX}:cluster/{CLUSTER}"}
    outside = {"ecs:cluster": f"{PREFIX}:cluster/another"}
    assert {operation for operation, _ in recorded} >= {"RunTask", "StopTask", "ListTasks", "DescribeTasks"}
    for operation, parameters in recorded:
        resource = resource_of(operation, parameters)
        assert allowed(policy, f"ecs:{operation}", resource, inside), f"{operation} on {resource}"
        if "cluster" in parameters:
            assert not allowed(policy, f"ecs:{operation}", resource, outside), f"{operation} in any cluster"


def test_what_is_not_allowed(policy: list[dict[str, Any]]) -> None:
    """Other task definitions, other clusters' tasks, tags of tasks that run, roles that are not the tasks'."""
    inside = {"ecs:cluster": f"{PREFIX}:cluster/{CLUSTER}", "ecs:CreateAction": "RunTask"}
    roles = {"iam:PassedToService": "ecs-tasks.amazonaws.com"}
    assert not allowed(policy, "ecs:RunTask", f"{PREFIX}:task-definition/other:1", inside)
    assert not allowed(policy, "ecs:StopTask", f"{PREFIX}:task/another/0123", inside)
    assert allowed(policy, "ecs:TagResource", f"{PREFIX}:task/{CLUSTER}/0123", inside)
    assert not allowed(policy, "ecs:TagResource", f"{PREFIX}:task/{CLUSTER}/0123", {})
    assert not allowed(policy, "iam:PassRole", "arn:aws:iam::123456789012:role/admin", roles)
    passed = next(_list(s["Resource"]) for s in policy if "iam:PassRole" in _list(s["Action"]))
    assert all(allowed(policy, "iam:PassRole", role, roles) for role in passed)
    assert not any(allowed(policy, "iam:PassRole", role, {}) for role in passed)
    assert "*" not in json.dumps(sorted(actions(policy)))
