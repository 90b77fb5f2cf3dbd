"""How a fault is planted: a function that changes one thing in the real code for as long as a stack is open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from unittest.mock import patch

from reconciler.core import decide
from tests.sim import daemon

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    Plant = Callable[[ExitStack], None]

MUTANTS: Final[dict[str, Plant]] = {}
"""All of them, by name."""


def mutant(plant: Plant) -> Plant:
    """Make it one of MUTANTS, under its function's name."""
    MUTANTS[plant.__name__.strip("_")] = plant
    return plant


def set_in(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    """Give an attribute of a module or class this value."""
    stack.enter_context(patch.object(owner, name, value))


def set_policy(stack: ExitStack, **changes: Any) -> None:
    """Let each daemon decide by another policy."""
    whole = decide.Policy(**changes)
    set_in(stack, daemon, "POLICY", whole)
