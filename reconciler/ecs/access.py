"""What AWS does not let us do now: the part of our trouble that no single workload can show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconciler.seams import Clock

__all__ = ["Access"]

LAPSE: Final = 300.0
"""Seconds after which a refusal that is not repeated is forgotten: its operation may not be called again for hours,
while all others go well."""


class Access:
    """Remembers which operations AWS refused, last time each was called, for who we are. Implements `on_call`.

    All but RunTask: a launch that is refused closes its gate, which says so. Where nothing waits to be launched, this
    is how expired credentials or a missing permission are seen. Of two listings, which is then all that is called, the
    second comes before the refusal of the first lapses.
    """

    def __init__(self, on_call: Callable[[str, str, float], None], clock: Clock, *, listing_interval: float) -> None:
        self._on_call, self._clock = on_call, clock
        self._lapse = max(LAPSE, 2 * listing_interval)
        self._refused: dict[str, float] = {}
        """When each was refused last, in monotonic seconds."""

    def called(self, operation: str, result: str, seconds: float) -> None:
        if result == "credentials" and operation != "RunTask":
            self._refused[operation] = self._clock.monotonic()
        elif result == "ok":
            self._refused.pop(operation, None)
        self._on_call(operation, result, seconds)

    @property
    def reason(self) -> str | None:
        """For people. None: whatever was called was allowed, or its refusal has lapsed."""
        since = self._clock.monotonic() - self._lapse
        # A copy: other threads call meanwhile.
        refused = sorted(name for name, at in self._refused.copy().items() if at > since)
        if not refused:
            return None
        return f"AWS accepts no credentials of ours for {', '.join(refused)}, or denies it: the log has AWS's own words"
