"""A pause for all launches of a profile, because what fails is not any one workload's fault."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Gate"]

_FIRST, _LONGEST = 1.0, 60.0


@dataclass(slots=True)
class Gate:
    """Open, or closed with one probe at a time. Times are monotonic seconds, given by the caller.

    Expired credentials, a cluster that is gone, no capacity or an API that answers nothing would otherwise be met once
    by every waiting workload. While the gate is closed one launch is let through after each pause; the first that ECS
    accepts opens it.
    """

    reason: str | None = None
    """Why it is closed, for people. None: it is open."""
    _pause: float = 0.0
    _until: float = 0.0
    _probed: bool = False

    def room(self, now: float, wanted: int) -> int:
        """How many launches may begin now, at most `wanted`."""
        if self.reason is None:
            return wanted
        return min(wanted, 1) if now >= self._until else 0

    def probing(self, now: float) -> None:
        """A launch has been sent. While the gate is closed it is the probe: the next one waits for another pause."""
        self._probed = True
        self._until = now + self._pause

    def close(self, now: float, reason: str) -> None:
        """A failure that is nobody's own fault. Each probe that fails doubles the pause, up to a minute."""
        if self.reason is None:
            self._pause = _FIRST
        elif self._probed:
            self._pause = min(_LONGEST, self._pause * 2)
        else:
            return  # an answer to a launch that was under way when the gate closed
        self.reason, self._probed = reason, False
        self._until = now + self._pause

    def open(self) -> None:
        """A launch was accepted."""
        self.reason, self._pause, self._until, self._probed = None, 0.0, 0.0, False
