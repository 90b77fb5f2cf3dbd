"""For DAG files: an `executor_config` with names, types, and errors that show where the DAG is written.

A DAG file is read again and again, by the DAG processor and in every container, so this imports the standard library
and our own rules, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from reconciler.core import policy
from reconciler.core.runtask import TAG_KEY, TAG_VALUE, TAGS_LIMIT, tag_text

__all__ = ["ecs_config"]

_CPU: Final = re.compile(r"(\d+(?:\.\d+)?|\.\d+) ?vcpu", re.IGNORECASE)
_MEMORY: Final = re.compile(r"(\d+(?:\.\d+)?|\.\d+) ?gb", re.IGNORECASE)
UNIT: Final = 1024
"""CPU units in a vCPU, and MiB in a GB as ECS counts them."""


def ecs_config(
    *,
    cpu: int | str | None = None,
    memory: int | str | None = None,
    env: Mapping[str, str] | None = None,
    task_definition: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """An `executor_config` for one task: `@task(executor_config=ecs_config(cpu="2 vCPU", memory="8 GB"))`.

    `cpu`: CPU units (1024 are one vCPU) or text like "0.5 vCPU". `memory`: MiB, or text like "2 GB". Both are for the
    whole ECS task; on Fargate they must be one of its sizes.
    `env`: environment variables of the container that runs the task.
    `task_definition`: family, family:revision or ARN; it must have the container that the operator configured.
    `tags`: tags of the ECS task, in place of the operator's.

    What is left out stays as the operator configured it. The result is a plain mapping of RunTask parameters, so
    further ones can be added to it. Raises ValueError or TypeError while the DAG is read.

    Sizes: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/fargate-tasks-services.html
    """
    overrides: dict[str, Any] = {}
    if cpu is not None:
        overrides["cpu"] = str(_amount("cpu", cpu, _CPU, "CPU units such as 512, or text such as '0.5 vCPU'"))
    if memory is not None:
        overrides["memory"] = str(_amount("memory", memory, _MEMORY, "MiB such as 2048, or text such as '2 GB'"))
    if env:
        # The operator knows the container's name; one without a name is the one that runs the task.
        variables = [{"name": name, "value": value} for name, value in _texts("env", env).items()]
        overrides["containerOverrides"] = [{"environment": variables}]
    config: dict[str, Any] = {"overrides": overrides} if overrides else {}
    if task_definition is not None:
        if not str(task_definition).strip():
            raise ValueError("task_definition must be a family, family:revision or an ARN")
        config["taskDefinition"] = task_definition
    if tags:
        config["tags"] = [{"key": key, "value": value} for key, value in _tags(_texts("tags", tags)).items()]
    policy.check(config, frozenset(), "the task's container")
    return config


def _amount(name: str, value: object, text: re.Pattern[str], wanted: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise TypeError(f"{name} is {value!r}: give {wanted}")
    if isinstance(value, str):
        match = text.fullmatch(value.strip())
        amount = float(match[1]) * UNIT if match else (int(value) if value.strip().isdecimal() else 0)
    else:
        amount = value
    if amount <= 0 or amount != int(amount):
        raise ValueError(f"{name} is {value!r}: give {wanted}")
    return int(amount)


def _texts(name: str, given: object) -> Mapping[str, str]:
    if not isinstance(given, Mapping) or not all(isinstance(part, str) for item in given.items() for part in item):
        raise TypeError(f"{name} must be a mapping of text to text: write numbers as '1' and lists as JSON")
    return given


def _tags(tags: Mapping[str, str]) -> Mapping[str, str]:
    for key, value in tags.items():
        if not key or tag_text(key, TAG_KEY) != key or tag_text(value, TAG_VALUE) != value:
            raise ValueError(
                f"the tag {key!r} = {value!r} is not one that AWS takes: letters, numbers, blanks and _ . : / = + - @, "
                f"at most {TAG_KEY} characters in the key and {TAG_VALUE} in the value"
            )
    if len(tags) > TAGS_LIMIT:
        raise ValueError(f"{len(tags)} tags are more than the {TAGS_LIMIT} that an ECS task may have")
    return tags
