"""The option `[ecs_reconciler] queues`: what one queue says of its profile, over what `[aws_ecs_executor]` says.

queues = {"gpu": {"task_definition": "train:4", "launch_type": "EC2", "max_running_tasks": 40}}
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reconciler.core.profiles import DEFAULT
from reconciler.core.runtask import shard_of
from reconciler.core.shares import Shares
from reconciler.options import MANY, Amount, Seconds

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from reconciler.core.profiles import Profiles
    from reconciler.core.runtask import Profile

__all__ = ["QueueOptions", "own_options", "profile_options", "shard_problems", "shares"]


class QueueOptions(BaseModel):
    """What a queue may set beside the options of `[aws_ecs_executor]`."""

    model_config = ConfigDict(frozen=True)

    max_running_tasks: int | None = Field(
        None,
        ge=0,
        le=MANY,
        description="How many ECS tasks of this queue may exist at once, within [ecs_reconciler] max_running_tasks. "
        "Unset: all of them.",
    )
    max_running_vcpus: Amount | None = Field(
        None,
        description="How many Fargate vCPUs the ECS tasks of this queue may have at once, within [ecs_reconciler] "
        "max_running_vcpus. Unset: all of them.",
    )
    start_timeout: Seconds | None = Field(
        None, description="Seconds, for this queue. Unset: [ecs_reconciler] start_timeout."
    )
    role_arn: str | None = Field(
        None,
        pattern=r"^arn:aws[a-z-]*:iam::\d{12}:role/.+$",
        description="Role of another account, which the daemon assumes to run this queue's tasks there, such as "
        "arn:aws:iam::123456789012:role/airflow.",
    )
    events_queue_url: str | None = Field(
        None,
        description="Queue of events of another account or region in which this queue runs. Of the same one: "
        "[ecs_reconciler] events_queue_url.",
    )
    spot_fallback_after: int = Field(
        0,
        ge=0,
        description="After so many launches that found no capacity, or lost it before their container began, the first "
        "item of capacity_provider_strategy is left out for ten minutes: name the Spot provider first. 0: never.",
    )


_FOR_ALL: Final = frozenset({"max_run_task_attempts", "conn_id", "check_health_on_startup"})
"""Options of `[aws_ecs_executor]` that are not a matter of one queue."""

EVENTS_QUEUE: Final = "[ecs_reconciler] events_queue_url"
_REGION: Final = re.compile(r"[a-z]{2}(-[a-z]+)+-\d")

_EXCLUDE_ONE_ANOTHER: Final = ("launch_type", "capacity_provider_strategy")


def own_options(said: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a queue's options that `QueueOptions` has."""
    return {name: value for name, value in said.items() if name in QueueOptions.model_fields}


def profile_options(
    queue: str, said: Mapping[str, Any], common: Mapping[str, Any], known: Collection[str], problems: list[str]
) -> dict[str, Any]:
    """The options of `[aws_ecs_executor]` as they are for a queue: its own, and what it does not set from all.

    `known` are the names of all options of that section. A name that is not known is added to `problems`.
    """
    allowed = {name for name in known if name not in _FOR_ALL}
    for name in said:
        if name in _FOR_ALL:
            other = "; a queue of another account names it by role_arn" if name == "conn_id" else ""
            problems.append(
                f'[ecs_reconciler] queues: "{queue}" sets {name}, which holds for all queues: set it in '
                f"[aws_ecs_executor]{other}"
            )
        elif name not in allowed and name not in QueueOptions.model_fields:
            names = sorted({*allowed, *QueueOptions.model_fields})
            near = difflib.get_close_matches(name.lower(), names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it may set {', '.join(names)}"
            problems.append(f'[ecs_reconciler] queues: "{queue}" sets {name}, which is no option of a queue: {hint}')
    inherited = dict(common)
    for one, other in (_EXCLUDE_ONE_ANOTHER, _EXCLUDE_ONE_ANOTHER[::-1]):
        if said.get(one):
            # A queue that chooses its own capacity does not want the other kind of everybody's.
            inherited.pop(other, None)
    return inherited | {name: value for name, value in said.items() if name in allowed and value is not None}


def shard_problems(profiles: Profiles, max_running_tasks: int) -> list[str]:
    """What is wrong between queues that run in several accounts or regions."""
    problems: list[str] = []
    roles: dict[str, str | None] = {profiles.default.shard: profiles.default.role_arn}
    for profile in profiles.all():
        where = f'[ecs_reconciler] queues: "{profile.name}"'
        other = roles.setdefault(profile.shard, profile.role_arn)
        if other != profile.role_arn:
            problems.append(
                f"{where} assumes {profile.role_arn} in {profile.shard}, where another queue assumes {other}: one "
                "account and region has one role, because its rate limits are one"
            )
        if profile.shard != profiles.default.shard and profile.max_running_tasks is None:
            problems.append(
                f"{where} runs in {profile.shard}, apart from the others, and so needs a max_running_tasks of its own"
            )
    problems += _events_problems(profiles)
    rest = profiles.limits(max_running_tasks)[profiles.default.shard]
    if rest < 1 and not problems:
        problems.append(
            f"[ecs_reconciler] max_running_tasks is {max_running_tasks}, and the queues that run in other accounts or "
            f"regions take {max_running_tasks - rest} of them: {profiles.default.shard} needs at least 1, raise it"
        )
    return problems


def _events_problems(profiles: Profiles) -> list[str]:
    """What is wrong with the queues of events: each account and region has at most one, there."""
    problems: list[str] = []
    for profile in profiles.all():
        if not (url := profile.events_queue_url):
            continue
        mine = profile.name != profiles.default.name
        where = f'[ecs_reconciler] queues: "{profile.name}": events_queue_url' if mine else EVENTS_QUEUE
        if problem := _url_problem(url, profile):
            problems.append(f"{where}: {url!r} {problem}")
        elif url != profiles.events_queue(profile.shard):
            problems.append(
                f"{where}: {profile.shard} has one queue of events, and another is named by [ecs_reconciler] "
                "events_queue_url or another queue"
            )
    return problems


def _url_problem(url: str, profile: Profile) -> str | None:
    """Of one URL. https://docs.aws.amazon.com/general/latest/gr/sqs-service.html lists the hosts of SQS."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return "is not a URL"
    example = f"such as https://sqs.{profile.region}.amazonaws.com/123456789012/airflow-events"
    if parts.scheme not in ("http", "https") or not host:
        return f"is not the URL of a queue: give what SQS shows, {example}"
    found = re.fullmatch(r"/([^/]+)/([\w-]{1,80}(?:\.fifo)?)", parts.path)
    if not found or parts.query or parts.fragment or parts.username:
        return f"does not end with an account and the name of a queue: give what SQS shows, {example}"
    if not host.endswith((".amazonaws.com", ".amazonaws.com.cn", ".api.aws")):
        return None  # a stand-in for SQS, on this machine or in a test
    if parts.scheme != "https":
        return f"is not encrypted: give the URL that SQS shows, {example}"
    region = next((label for label in host.split(".") if _REGION.fullmatch(label)), "us-east-1")
    if region != profile.region:
        return f"is a queue in {region}, but the tasks run in {profile.region}, and their events are there: {example}"
    account = profile.shard.partition("/")[2]
    if account and found[1] != account:
        return f"is a queue of account {found[1]}, but the tasks run in account {account}, as role_arn says"
    if found[2].endswith(".fifo"):
        return "is a FIFO queue: make a standard one, for which EventBridge needs no message group"
    return None


def shares(queues: Mapping[str, Mapping[str, Any]], region: str, max_running_tasks: int) -> Shares:
    """What the queues say of how many tasks may run at once: `Profiles.limits`, for who does not know the profiles.

    `region`: [aws_ecs_executor] region_name. The daemon reports what is wrong.
    """
    own = {queue: _readable(said) for queue, said in queues.items()}
    share = {queue: options.max_running_tasks for queue, options in own.items()}
    shard = {
        queue: shard_of(str(said.get("region_name") or region), own[queue].role_arn) for queue, said in queues.items()
    }
    home = shard.get(DEFAULT, region)
    # Without a share it can only be at home: the daemon refuses it elsewhere.
    aside = {queue: n for queue, n in share.items() if n is not None and shard[queue] != home}
    rest = max(0, max_running_tasks - sum(aside.values()))
    # Who may have all that is left waits for what all wait for.
    of = {queue: n if queue in aside or (n is not None and n < rest) else None for queue, n in share.items()}
    return Shares(of, tuple(sorted(aside)), rest if rest < max_running_tasks else None)


def _readable(said: Mapping[str, Any]) -> QueueOptions:
    """A queue's options as the daemon reads them, or none of them where it would refuse one."""
    try:
        return QueueOptions.model_validate(own_options(said))
    except ValidationError:
        return QueueOptions.model_validate({})
