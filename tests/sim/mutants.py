"""Faults planted into the protocol. A simulation that does not find them proves nothing.

Each changes one thing in the real code for as long as it is planted; nothing of it is ever shipped.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from tests.sim import mutants_launch, mutants_tell, mutants_watch
from tests.sim.planting import MUTANTS

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MUTANTS", "mutants_launch", "mutants_tell", "mutants_watch", "planted"]


@contextmanager
def planted(name: str | None) -> Iterator[None]:
    """With this fault in the code, or with none."""
    with ExitStack() as stack:
        if name is not None:
            MUTANTS[name](stack)
        yield
