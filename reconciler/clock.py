"""The machine's clock, and the process's wish to stop: the one place where the daemon's time comes from."""

from __future__ import annotations

import threading
import time

__all__ = ["SystemClock"]


class SystemClock:
    """Implements `seams.Clock`. A wait ends early once `stop` has been called."""

    def __init__(self) -> None:
        self._stop = threading.Event()

    def monotonic(self) -> float:
        """Seconds that also pass while the machine is suspended: a request must not be sent late for having slept."""
        # Not every system has such a clock; those that have not are not put to sleep with a daemon running.
        return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))

    def wait(self, seconds: float) -> None:
        self._stop.wait(seconds)

    def stop(self) -> None:
        self._stop.set()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()
