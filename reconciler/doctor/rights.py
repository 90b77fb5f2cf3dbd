"""Who we are, what the daemon's role must allow, and whether it does, by IAM's own simulator.

The simulator knows the role's policies, and of a request what it is told. Where a request may be allowed by more than
that, it is said to be unknown and not to be denied.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from reconciler.core.finding import Finding, error, fine, note, warning
from reconciler.ecs.errors import clean

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from reconciler.core.runtask import Profile
    from reconciler.doctor.aws import Aws

__all__ = ["check_account", "needed_actions"]

ROLES: Final = ("taskRoleArn", "executionRoleArn")
ON_THE_QUEUE: Final = ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes")
"""What reading the queue of events takes. Without it tasks are looked at the more often."""


def needed_actions(profile: Profile, definition: Mapping[str, Any]) -> dict[str, list[str]]:
    """What the daemon's role must allow, and on which ARNs, for this profile.

    https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonelasticcontainerservice.html
    """
    arn = str(definition["taskDefinitionArn"])
    account = arn.partition(":task-definition/")[0]
    task = f"{account}:task/{_name(profile)}/any"
    given = {**definition, **profile.run_task.get("overrides", {})}
    roles = [str(given[which]) for which in ROLES if given.get(which)]
    needed = {
        "ecs:RunTask": [arn],
        "ecs:DescribeTasks": [task],
        "ecs:StopTask": [task],
        "ecs:ListTasks": ["*"],
        "ecs:DescribeClusters": [f"{account}:cluster/{_name(profile)}"],
        "ecs:DescribeTaskDefinition": ["*"],
    }
    if profile.cost_tags or profile.run_task.get("tags"):
        needed["ecs:TagResource"] = [task]
    if roles:
        needed["iam:PassRole"] = roles
    if profile.events_queue_url:
        queue = _queue_arn(profile.events_queue_url, account)
        needed |= {action: [queue] for action in ON_THE_QUEUE}
    return needed


def check_account(aws: Aws, profile: Profile, definition: Mapping[str, Any]) -> Iterator[Finding]:
    """Who we are and, as far as IAM lets us see it, whether that may do what the daemon does and pass the roles."""
    if aws.local:
        yield note("AWS account", f"{aws.ecs.meta.endpoint_url} is not AWS: nothing is known of rights and quotas")
        return
    try:
        arn = aws.client("sts").get_caller_identity()["Arn"]
    except (BotoCoreError, ClientError) as failed:
        yield note("AWS account", f"could not be seen: {clean(str(failed))}")
        return
    yield fine("AWS account", f"we are {arn}")
    if not definition:
        return
    yield from _rights(aws, arn, profile, definition)


def _rights(aws: Aws, arn: str, profile: Profile, definition: Mapping[str, Any]) -> Iterator[Finding]:
    """https://docs.aws.amazon.com/IAM/latest/APIReference/API_SimulatePrincipalPolicy.html"""
    iam = aws.client("iam")
    account = str(definition["taskDefinitionArn"]).partition(":task-definition/")[0]
    try:
        principal = _role(iam, arn)
        for action, resources in needed_actions(profile, definition).items():
            entries = [
                {"ContextKeyName": key, "ContextKeyValues": [value], "ContextKeyType": "string"}
                for key, value in _context(action, f"{account}:cluster/{_name(profile)}").items()
            ]
            # One at a time: the result of an action on several names none of them.
            for resource in resources:
                answer = iam.simulate_principal_policy(
                    PolicySourceArn=principal, ActionNames=[action], ResourceArns=[resource], ContextEntries=entries
                )
                for result in answer["EvaluationResults"]:
                    yield from _judged(aws, principal, action, resource, result, profile)
    except (BotoCoreError, ClientError) as failed:
        yield note("IAM", f"rights could not be seen (iam:SimulatePrincipalPolicy): {clean(str(failed))}")


def _context(action: str, cluster: str) -> dict[str, str]:
    """What AWS knows of such a call, of what policies are likely to ask."""
    if action == "iam:PassRole":
        return {"iam:PassedToService": "ecs-tasks.amazonaws.com"}
    if action == "ecs:TagResource":
        return {"ecs:CreateAction": "RunTask"}
    return {"ecs:cluster": cluster} if action.startswith("ecs:") else {}


def _judged(  # noqa: PLR0917 - all that is asked and answered
    aws: Aws, principal: str, action: str, resource: str, result: Mapping[str, Any], profile: Profile
) -> Iterator[Finding]:
    decision, where = result["EvalDecision"], f"IAM of {principal}"
    if decision == "allowed":
        return
    untold = {key for part in (result, *result.get("ResourceSpecificResults", ())) for key in _untold(part)}
    if untold:
        keys = ", ".join(sorted(untold))
        yield note(where, f"{action} on {resource} depends on {keys}, which the simulator is not told")
    elif action not in ON_THE_QUEUE:
        what = f"may not {action} on {resource} ({decision})"
        yield error(where, what, "allow it; docs/migrating.md has the whole policy")
    elif unseen := _unseen_of_the_queue(aws, principal, resource, decision, str(profile.events_queue_url)):
        yield note(where, f"{action} on {resource} could not be seen: {unseen}")
    else:
        what = f"may not {action} on {resource} ({decision})"
        yield warning(where, what, "allow it; until then tasks are looked at every few seconds")


def _untold(part: Mapping[str, Any]) -> list[str]:
    keys: list[str] = part.get("MissingContextValues", [])
    return keys


def _unseen_of_the_queue(aws: Aws, principal: str, queue: str, decision: str, url: str) -> str | None:
    """What may allow it all the same. With a role the simulator takes no policy of a queue."""
    if queue.split(":")[4] != principal.split(":")[4]:
        return "the queue is another account's"
    if decision == "explicitDeny":
        return None
    try:
        answer = aws.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["Policy"])
    except (BotoCoreError, ClientError) as failed:
        return f"the queue's own policy may allow it, and can not be read: {clean(str(failed))}"
    statements = json.loads(answer.get("Attributes", {}).get("Policy", "{}")).get("Statement", [])
    for statement in statements if isinstance(statements, list) else [statements]:
        whom = statement.get("Principal")
        if statement["Effect"] == "Allow" and not (isinstance(whom, dict) and set(whom) == {"Service"}):
            return "the queue's own policy may allow it"
    return None


def _queue_arn(url: str, like: str) -> str:
    """The ARN of a queue, in the partition and region of another ARN: its URL ends with its account and name."""
    _, partition, _, region, *_ = like.split(":")
    account, name = urlsplit(url).path.split("/")[-2:]
    return f"arn:{partition}:sqs:{region}:{account}:{name}"


def _name(profile: Profile) -> str:
    """Of the cluster, which may be given by its ARN."""
    return profile.cluster.rpartition("/")[2]


def _role(iam: Any, arn: str) -> str:
    """A session's ARN names its role without the role's path."""
    if ":assumed-role/" not in arn:
        return arn
    return str(iam.get_role(RoleName=arn.split("/")[1])["Role"]["Arn"])
