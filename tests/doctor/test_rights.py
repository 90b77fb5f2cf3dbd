"""What is said of the daemon's rights, from what IAM's simulator answers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.doctor.rights import check_account, needed_actions
from tests.doctor.account import DEFINITION, PROFILE, ROLE, account, lines, refusal

if TYPE_CHECKING:
    from reconciler.core.runtask import Profile

STS = {"get_caller_identity": {"Arn": "arn:aws:sts::123456789012:assumed-role/daemon/session"}}
TASKS = "arn:aws:ecs:eu-central-1:123456789012:task/airflow/any"
URL = "https://sqs.eu-central-1.amazonaws.com/123456789012/airflow-events"
QUEUE = "arn:aws:sqs:eu-central-1:123456789012:airflow-events"
LISTENING = replace(PROFILE, events_queue_url=URL)
"""Whatever the daemon may need is needed for this profile."""
RULE = {"Effect": "Allow", "Principal": {"Service": "events.amazonaws.com"}, "Action": "sqs:SendMessage"}


def simulate(denied: str, decision: str = "implicitDeny", **result: Any) -> Any:
    """A simulator that denies one action. Like IAM's, it names the kind of resource in the result of an action."""

    def answer(**asked: Any) -> Any:
        assert asked["PolicySourceArn"] == ROLE
        (action,) = asked["ActionNames"]
        if action != denied:
            return {"EvaluationResults": [{"EvalDecision": "allowed", "EvalResourceName": "*"}]}
        return {"EvaluationResults": [{"EvalDecision": decision, "EvalResourceName": "arn:${Partition}:*", **result}]}

    return answer


def rights(simulator: Any, profile: Profile = LISTENING, queue: Any = None) -> list[str]:
    """What is found, but for who we are."""
    iam = {"get_role": {"Role": {"Arn": ROLE}}, "simulate_principal_policy": simulator}
    sqs = {"get_queue_attributes": queue if queue is not None else {"Attributes": {}}}
    return lines(check_account(account(sts=STS, iam=iam, sqs=sqs), profile, DEFINITION))[1:]


@pytest.mark.parametrize("action", sorted(needed_actions(LISTENING, DEFINITION)))
def test_a_right_that_is_missing_is_named_with_what_it_is_missing_on(action: str) -> None:
    found = rights(simulate(action))
    level = "warning" if action.startswith("sqs:") else "error"
    missing_on = needed_actions(LISTENING, DEFINITION)[action]
    assert len(found) == len(missing_on)
    for line, resource in zip(found, missing_on, strict=True):
        assert line.startswith(f"{level}: IAM of {ROLE}: may not {action} on {resource} (implicitDeny); ")


@pytest.mark.parametrize(
    ("cost_tags", "tags", "asked"),
    [(True, [], True), (False, [{"key": "team", "value": "data"}], True), (False, [], False)],
)
def test_a_task_with_tags_needs_the_right_to_tag_it(cost_tags: bool, tags: Any, asked: bool) -> None:
    profile = replace(PROFILE, cost_tags=cost_tags, run_task={**PROFILE.run_task, "tags": tags})
    assert needed_actions(profile, DEFINITION).get("ecs:TagResource") == ([TASKS] if asked else None)


def test_the_roles_that_a_task_gets_are_asked_about() -> None:
    task, execution = DEFINITION["taskRoleArn"], DEFINITION["executionRoleArn"]
    other = "arn:aws:iam::123456789012:role/other"
    assert needed_actions(PROFILE, DEFINITION)["iam:PassRole"] == [task, execution]
    for name, roles in (("taskRoleArn", [other, execution]), ("executionRoleArn", [task, other])):
        overridden = replace(PROFILE, run_task={**PROFILE.run_task, "overrides": {name: other}})
        assert needed_actions(overridden, DEFINITION)["iam:PassRole"] == roles
    assert "iam:PassRole" not in needed_actions(PROFILE, {"taskDefinitionArn": "x"})


def test_the_queue_of_events_is_asked_about_where_there_is_one() -> None:
    needed = needed_actions(LISTENING, DEFINITION)
    assert {action: on for action, on in needed.items() if action.startswith("sqs:")} == {
        "sqs:ReceiveMessage": [QUEUE],
        "sqs:DeleteMessage": [QUEUE],
        "sqs:GetQueueAttributes": [QUEUE],
    }
    assert not any(action.startswith("sqs:") for action in needed_actions(PROFILE, DEFINITION))
    china = DEFINITION["taskDefinitionArn"].replace("arn:aws:ecs:eu-central-1", "arn:aws-cn:ecs:cn-north-1")
    url = URL.replace("eu-central-1.amazonaws.com", "cn-north-1.amazonaws.com.cn")
    needed = needed_actions(replace(PROFILE, events_queue_url=url), {"taskDefinitionArn": china})
    assert needed["sqs:ReceiveMessage"] == ["arn:aws-cn:sqs:cn-north-1:123456789012:airflow-events"]


@pytest.mark.parametrize("decision", ["implicitDeny", "explicitDeny"])
@pytest.mark.parametrize(
    "result",
    [
        {"MissingContextValues": ["aws:SourceVpc"]},
        {"ResourceSpecificResults": [{"EvalResourceName": TASKS, "MissingContextValues": ["aws:SourceVpc"]}]},
    ],
)
def test_what_depends_on_more_than_the_simulator_is_told_is_not_called_denied(decision: str, result: Any) -> None:
    (line,) = rights(simulate("ecs:StopTask", decision, **result))
    assert line.startswith("note: IAM")
    assert f"ecs:StopTask on {TASKS} depends on aws:SourceVpc" in line


@pytest.mark.parametrize(
    ("decision", "queue", "words"),
    [
        ("implicitDeny", [RULE], "warning: IAM of "),
        ("implicitDeny", RULE, "warning: IAM of "),
        ("implicitDeny", [RULE, {**RULE, "Principal": {"AWS": ROLE}, "Action": "sqs:*"}], "note: IAM of "),
        ("implicitDeny", [{**RULE, "Principal": "*"}], "note: IAM of "),
        ("implicitDeny", [{**RULE, "Effect": "Deny", "Principal": "*"}], "warning: IAM of "),
        ("explicitDeny", [{**RULE, "Principal": "*"}], "warning: IAM of "),
        ("implicitDeny", refusal("AccessDenied"), "note: IAM of "),
    ],
)
def test_what_a_queues_own_policy_may_allow_is_not_called_denied(decision: str, queue: Any, words: str) -> None:
    answer = (
        queue
        if isinstance(queue, Exception)
        else {"Attributes": {"Policy": json.dumps({"Version": "2012-10-17", "Statement": queue})}}
    )
    (line,) = rights(simulate("sqs:DeleteMessage", decision), queue=answer)
    assert line.startswith(words)
    assert f"sqs:DeleteMessage on {QUEUE}" in line


def test_a_queue_of_another_account_is_not_judged_by_our_policies_alone() -> None:
    theirs = replace(PROFILE, events_queue_url=URL.replace("123456789012", "210987654321"))
    (line,) = rights(simulate("sqs:DeleteMessage", "explicitDeny"), theirs)
    assert line.startswith("note: IAM of ")


def test_rights_that_can_not_be_seen_are_no_error() -> None:
    found = lines(check_account(account(sts=STS, iam={"get_role": refusal("AccessDenied")}), PROFILE, DEFINITION))
    assert [line.partition(":")[0] for line in found] == ["ok", "note"]
    assert "iam:SimulatePrincipalPolicy" in found[1]


def test_where_there_is_no_aws_nothing_is_asked() -> None:
    (line,) = lines(check_account(account(endpoint="http://127.0.0.1:4569"), PROFILE, DEFINITION))
    assert "is not AWS" in line
