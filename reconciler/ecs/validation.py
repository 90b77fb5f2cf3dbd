"""What boto3 itself would refuse in a RunTask request, found before there is a task to fail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import botocore.session
from botocore.validate import ParamValidator

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["request_problems"]


def request_problems(request: Mapping[str, Any]) -> list[str]:
    """One line for each unknown member and each wrong type, by botocore's model of ECS."""
    model = botocore.session.Session().get_service_model("ecs").operation_model("RunTask")
    if model.input_shape is None:
        return []
    report = ParamValidator().validate(dict(request), model.input_shape).generate_report()
    return [line.strip() for line in report.splitlines() if line.strip()]
