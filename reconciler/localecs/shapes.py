"""Checks a request's types against botocore's own description of a service, so that the model may rely on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from botocore.session import get_session

from reconciler.localecs.errors import AwsError

if TYPE_CHECKING:
    from botocore.model import ServiceModel

_TYPES: dict[str, type | tuple[type, ...]] = {
    "structure": dict,
    "map": dict,
    "list": list,
    "string": str,
    "integer": int,
    "long": int,
    "boolean": bool,
    "double": (int, float),
    "float": (int, float),
    "timestamp": (int, float),
    "blob": str,
}


class Shapes:
    """The input shapes of one service, and its error code for a member that is `missing`."""

    def __init__(self, service: str, missing: str = "InvalidParameterException") -> None:
        self._missing = missing
        self._service: ServiceModel = get_session().get_service_model(service)
        self._operations = frozenset(self._service.operation_names)

    def check_request(self, operation: str, request: Any) -> None:
        """Raise SerializationException for a wrong type, and the service's own error for a member that is missing.

        Members that botocore does not know are ignored, as AWS ignores them.
        """
        if operation not in self._operations:
            raise AwsError("UnknownOperationException", f"There is no operation {operation!r}.")
        self._check(self._service.operation_model(operation).input_shape, request, operation)

    def _check(self, shape: Any, value: Any, path: str) -> None:
        if not _fits(shape.type_name, value):
            raise AwsError("SerializationException", f"{path} must be a {shape.type_name}, not {type(value).__name__}.")
        if shape.type_name == "structure":
            for name in shape.required_members:
                if value.get(name) is None:
                    raise AwsError(self._missing, f"{path}.{name} is required.")
            for name, member in shape.members.items():
                if value.get(name) is not None:
                    self._check(member, value[name], f"{path}.{name}")
        elif shape.type_name == "list":
            for index, item in enumerate(value):
                self._check(shape.member, item, f"{path}[{index}]")
        elif shape.type_name == "map":
            for key, item in value.items():
                self._check(shape.value, item, f"{path}.{key}")


def _fits(type_name: str, value: Any) -> bool:
    if isinstance(value, bool):  # Python's bool is an int, JSON's is not
        return type_name == "boolean"
    return isinstance(value, _TYPES[type_name])
