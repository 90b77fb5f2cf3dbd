"""Checks requests and answers against botocore's own description of ECS, and of SQS."""

from __future__ import annotations

from typing import Any

from botocore.session import get_session
from botocore.validate import ParamValidator

SERVICES = {name: get_session().get_service_model(name) for name in ("ecs", "sqs")}

# AWS sends these although they are not in the service models.
UNMODELLED_ERRORS = {
    "ThrottlingException",
    "ExpiredTokenException",
    "UnknownOperationException",
    "SerializationException",
    "AccessDenied",
    "InvalidParameterValue",
    "MissingParameter",
    "ServiceUnavailable",
}

# Codes of SQS's query protocol, where they are not the shape's name with a prefix.
QUERY_CODES = {"NonExistentQueue": "QueueDoesNotExist", "QueueAlreadyExists": "QueueNameExists"}

_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "structure": (dict,),
    "list": (list,),
    "map": (dict,),
    "string": (str,),
    "integer": (int,),
    "long": (int,),
    "boolean": (bool,),
    "double": (int, float),
    "timestamp": (int, float),
}


def request_problems(operation: str, request: dict[str, Any], service: str = "ecs") -> str:
    """What botocore's validator dislikes about a request; empty if nothing."""
    shape = SERVICES[service].operation_model(operation).input_shape
    assert shape is not None
    report = ParamValidator().validate(request, shape)
    return str(report.generate_report())


def answer_problems(operation: str, answer: Any, service: str = "ecs") -> list[str]:
    """Members that the output shape does not have, and values of the wrong type."""
    shape = SERVICES[service].operation_model(operation).output_shape
    if shape is None:
        return [] if answer == {} else [f"{operation} answers {answer!r}, not nothing"]
    return list(_problems(shape, answer, operation))


def known_error(operation: str, code: str, service: str = "ecs") -> bool:
    """Whether an error may come from this operation."""
    name = code.removeprefix("AWS.SimpleQueueService.")
    return code in UNMODELLED_ERRORS or QUERY_CODES.get(name, name) in {
        shape.name for shape in SERVICES[service].operation_model(operation).error_shapes
    }


def task_problems(detail: Any) -> list[str]:
    """Members of an event's task that ECS does not have, and values of the wrong type."""
    return list(_problems(SERVICES["ecs"].shape_for("Task"), detail, "detail"))


def _problems(shape: Any, value: Any, path: str) -> list[str]:
    right_type = isinstance(value, _PYTHON_TYPES[shape.type_name])
    if not right_type or (isinstance(value, bool) and shape.type_name != "boolean"):
        return [f"{path} is {value!r}, not a {shape.type_name}"]
    if shape.type_name == "structure":
        unknown = [f"{path}.{name} is not a member of {shape.name}" for name in value if name not in shape.members]
        members = [
            (shape.members[name], item, f"{path}.{name}") for name, item in value.items() if name in shape.members
        ]
        return unknown + [problem for member in members for problem in _problems(*member)]
    if shape.type_name == "list":
        return [
            problem for index, item in enumerate(value) for problem in _problems(shape.member, item, f"{path}[{index}]")
        ]
    if shape.type_name == "map":
        return [problem for key, item in value.items() for problem in _problems(shape.value, item, f"{path}.{key}")]
    choices = getattr(shape, "enum", None)
    return [f"{path} is {value!r}, not one of {choices}"] if choices and value not in choices else []
