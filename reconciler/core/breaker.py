"""Too much that looks wrong at once is more likely our own mistake than the world's."""

from __future__ import annotations

from typing import Final

__all__ = ["Breaker"]

TASKS: Final = 10
SHARE: Final = 0.3
"""With at least so many tasks, and so large a part of them suspicious, the fault is on our side: the wrong region, the
wrong cluster, a restored database."""
CLEAN_PASSES: Final = 2
"""So many unsuspicious passes close the breaker again."""


class Breaker:
    """Holds back what can not be undone while too much looks wrong at once."""

    def __init__(self) -> None:
        self._clean = CLEAN_PASSES

    @property
    def tripped(self) -> bool:
        return self._clean < CLEAN_PASSES

    def look(self, suspicious: int, of: int) -> bool:
        """Count one pass. Returns whether it is safe to act on what looked wrong."""
        if of >= TASKS and suspicious >= SHARE * of:
            self._clean = 0
        elif self.tripped:
            self._clean += 1
        return not self.tripped
