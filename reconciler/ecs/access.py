"""What AWS does not let us do now: the part of our trouble that no single workload can show."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Access"]


class Access:
    """Remembers which operations AWS refused, last time each was called, for who we are. Implements `on_call`.

    All but RunTask: a launch that is refused closes its gate, which says so. Where nothing waits to be launched, this
    is how expired credentials or a missing permission are seen.
    """

    def __init__(self, on_call: Callable[[str, str, float], None]) -> None:
        self._on_call = on_call
        self._refused: dict[str, None] = {}

    def called(self, operation: str, result: str, seconds: float) -> None:
        if result == "credentials" and operation != "RunTask":
            self._refused[operation] = None
        elif result == "ok":
            self._refused.pop(operation, None)
        self._on_call(operation, result, seconds)

    @property
    def reason(self) -> str | None:
        """For people. None: whatever was called was allowed."""
        refused = sorted(self._refused.copy())  # a copy: other threads call meanwhile
        if not refused:
            return None
        return f"AWS accepts no credentials of ours for {', '.join(refused)}, or denies it: the log has AWS's own words"
