"""Names of statements, for metrics: those of the constants that hold them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

from sqlalchemy import Executable

from reconciler.store import census, holds, inspect, rows, statements

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy.engine.interfaces import ExecutionContext

__all__ = ["OTHER", "statement_name", "statement_names"]

OTHER: Final = "other"
"""A statement that is not a constant."""
BEGIN: Final = "begin"
"""What is sent at the begin of each transaction, as plain SQL."""


@cache
def _known() -> Mapping[int, str]:
    return {id(statement): name for name, statement in _constants()}


def _constants() -> Iterator[tuple[str, Executable]]:
    for module in (statements, rows, census, holds, inspect):
        for name, value in vars(module).items():
            found = value.values() if isinstance(value, dict) else [value]
            for statement in found:
                if isinstance(statement, Executable) and name.isupper():
                    yield name.strip("_").lower(), statement


def statement_names() -> tuple[str, ...]:
    """All names, in order."""
    return (*sorted(set(_known().values())), "in_phase", BEGIN, OTHER)


def statement_name(context: ExecutionContext | None) -> str:
    """The name of the statement that is executed. Statements without a constant may carry it as an execution option."""
    statement = getattr(context, "invoked_statement", None)
    if statement is None:
        return BEGIN if context is not None else OTHER
    option = statement.get_execution_options().get("statement") if isinstance(statement, Executable) else None
    return str(option or _known().get(id(statement), OTHER))
