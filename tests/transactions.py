"""Transactions for delivery and upkeep where each is by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from sqlalchemy import Connection

__all__ = ["Separate"]


@dataclass(frozen=True, slots=True)
class Separate:
    """Implements `delivery.Transactions`."""

    make: Callable[[], AbstractContextManager[Connection]]

    def read(self) -> AbstractContextManager[Connection]:
        return self.make()

    def begin(self) -> AbstractContextManager[Connection]:
        return self.make()
