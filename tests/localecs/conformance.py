"""Checks requests and answers against botocore's own description of ECS."""

from __future__ import annotations

from typing import Any

from botocore.session import get_session
from botocore.validate import ParamValidator

SERVICE = get_session().get_service_model("ecs")

# ECS sends these although they are not in the service model.
UNMODELLED_ERRORS = {
    "ThrottlingException",
    "ExpiredTokenException",
    "UnknownOperationException",
    "SerializationException",
}

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


def request_problems(operation: str, request: dict[str, Any]) -> str:
    """What botocore's validator dislikes about a request; empty if nothing."""
    shape = SERVICE.operation_model(operation).input_shape
    assert shape is not None
    report = ParamValidator().validate(request, shape)
    return str(report.generate_report())


def answer_problems(operation: str, answer: Any) -> list[str]:
    """Members that the output shape does not have, and values of the wrong type."""
    return list(_problems(SERVICE.operation_model(operation).output_shape, answer, operation))


def known_error(operation: str, code: str) -> bool:
    """Whether an error may come from this operation."""
    return code in UNMODELLED_ERRORS or code in {
        shape.name for shape in SERVICE.operation_model(operation).error_shapes
    }


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
