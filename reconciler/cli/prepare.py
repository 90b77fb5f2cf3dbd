"""Commands that print what AWS is to be given."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

__all__ = ["aws_setup", "render"]


def aws_setup(arguments: argparse.Namespace) -> int:
    """Print a CloudFormation template of what is needed in AWS, with these parameters checked and set."""
    from reconciler.awssetup import template

    print(template(arguments.setting), end="")
    return 0


def render(arguments: argparse.Namespace) -> int:
    """Print a task definition for tasks' containers, as `aws ecs register-task-definition` takes it."""
    import json

    from reconciler.awssetup import task_definition

    request = task_definition(
        family=arguments.family,
        container_name=arguments.container_name,
        image=arguments.image,
        region=arguments.region,
        log_group=arguments.log_group,
        execution_role_arn=arguments.execution_role_arn,
        task_role_arn=arguments.task_role_arn,
        cpu=arguments.cpu,
        memory=arguments.memory,
        architecture=arguments.architecture,
    )
    print(json.dumps(request, indent=2))
    return 0
