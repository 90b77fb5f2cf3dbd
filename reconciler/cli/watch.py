"""Looking again and again, until Ctrl-C."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from reconciler.clock import SystemClock

__all__ = ["again"]

LEAST = 0.1
"""Seconds. More often would only be load."""


def again(look: Callable[[], None], interval: float, clock: SystemClock, on_error: Callable[[str], None]) -> None:
    """Call `look` every `interval` seconds until Ctrl-C. A database that does not answer is told, and asked again."""
    from reconciler.core.errors import StoreUnavailable

    try:
        while not clock.stopped:
            try:
                look()
            except StoreUnavailable as error:
                on_error(str(error))
            clock.wait(max(interval, LEAST))
    except KeyboardInterrupt:
        return
