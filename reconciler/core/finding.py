"""What a check found: one line that says where, what, and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Finding", "Level", "error", "fine", "note", "warning"]


class Level(StrEnum):
    """How much it matters, the worst first."""

    ERROR = "error"
    """Tasks can not run, or not safely, until it is mended."""
    WARNING = "warning"
    """It works, and will not always, or not as fast as it could."""
    NOTE = "note"
    """It could not be seen, or is for information."""
    OK = "ok"


@dataclass(frozen=True, slots=True)
class Finding:
    """`where`: the option, table or AWS thing it is about. `mend`: empty where there is nothing to do."""

    level: Level
    where: str
    what: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f"; {self.mend}" if self.mend else "")


def error(where: str, what: str, mend: str) -> Finding:
    return Finding(Level.ERROR, where, what, mend)


def warning(where: str, what: str, mend: str) -> Finding:
    return Finding(Level.WARNING, where, what, mend)


def note(where: str, what: str, mend: str = "") -> Finding:
    return Finding(Level.NOTE, where, what, mend)


def fine(where: str, what: str) -> Finding:
    return Finding(Level.OK, where, what)
