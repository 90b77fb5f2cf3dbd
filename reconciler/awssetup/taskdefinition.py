"""A task definition for the containers of tasks, as RegisterTaskDefinition takes it.

Source: https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_RegisterTaskDefinition.html
"""

from __future__ import annotations

import re
from typing import Any, Final

from reconciler.awssetup.fargate import check_size
from reconciler.config import ConfigError

__all__ = ["task_definition"]

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,255}")
_ROLE: Final = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/.+")


def task_definition(
    *,
    family: str,
    container_name: str,
    image: str,
    region: str,
    log_group: str,
    execution_role_arn: str,
    task_role_arn: str | None,
    cpu: int,
    memory: int,
    architecture: str,
) -> dict[str, Any]:
    """The request. Raises ConfigError with all problems at once."""
    problems = [
        f"{option} {value!r} is not 1 to 255 of A-Z a-z 0-9 _ -"
        for option, value in (("--family", family), ("--container-name", container_name))
        if not _NAME.fullmatch(value)
    ]
    roles = {"--execution-role-arn": execution_role_arn, "--task-role-arn": task_role_arn}
    problems += [
        f"{option} {arn!r} is not the ARN of a role, arn:aws:iam::ACCOUNT:role/NAME"
        for option, arn in roles.items()
        if arn is not None and not _ROLE.fullmatch(arn)
    ]
    try:
        check_size(cpu, memory)
    except ValueError as error:
        problems.append(f"--cpu and --memory: {error}")
    if problems:
        raise ConfigError(problems)
    container = {
        "name": container_name,
        "image": image,
        "essential": True,
        # Airflow's supervisor reports a task that was told to end, and uploads its log, before ECS kills it.
        "stopTimeout": 120,
        "logConfiguration": {
            "logDriver": "awslogs",
            "options": {
                "awslogs-group": log_group,
                "awslogs-region": region,
                "awslogs-stream-prefix": "airflow",
                # A task must not wait for CloudWatch.
                "mode": "non-blocking",
                "max-buffer-size": "4m",
            },
        },
    }
    return {
        "family": family,
        "requiresCompatibilities": ["FARGATE"],
        "networkMode": "awsvpc",
        "cpu": str(cpu),
        "memory": str(memory),
        "runtimePlatform": {"cpuArchitecture": architecture, "operatingSystemFamily": "LINUX"},
        "executionRoleArn": execution_role_arn,
        **({"taskRoleArn": task_role_arn} if task_role_arn else {}),
        "containerDefinitions": [container],
    }
