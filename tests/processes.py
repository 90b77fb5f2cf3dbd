"""What the tests ask of processes that are not their own children."""

from __future__ import annotations

from pathlib import Path

__all__ = ["runs"]


def runs(pid: int) -> bool:
    """An orphan that nobody has reaped yet runs no more."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
