"""What the model raises: errors that ECS would answer with, and an answer that gets lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class AwsError(Exception):
    """An error answer of ECS. `code` is the value of `__type`; `extra` holds further members of the error shape."""

    def __init__(self, code: str, message: str, status: int = 400, extra: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status
        self.extra: Mapping[str, Any] = extra or {}


class ResponseLost(Exception):
    """The connection broke. Only an injected fault raises it; the server then closes the socket without an answer."""


def invalid(message: str) -> AwsError:
    """The error of a parameter that is wrong by itself or with the others."""
    return AwsError("InvalidParameterException", message)


def client_error(message: str) -> AwsError:
    """The error that ECS uses for a request it understands but will not do."""
    return AwsError("ClientException", message)
