"""What the reconciler needs in AWS: a CloudFormation template, with its parameters checked, and a task definition."""

from reconciler.awssetup.taskdefinition import task_definition
from reconciler.awssetup.template import template

__all__ = ["task_definition", "template"]
