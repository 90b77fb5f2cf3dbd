"""The last resort at the end of the daemon: it ends in time, even while nothing that it talks to answers."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from reconciler.clock import SystemClock

__all__ = ["END_SECONDS", "end_in_time"]

log = structlog.get_logger()

END_SECONDS: Final = 9.0
"""How long the process may live after it was told to stop. Kubernetes kills after 30, Docker after 10."""


def end_in_time(clock: SystemClock) -> None:
    """End this process END_SECONDS after `clock` was stopped, if it has not ended by then.

    The interpreter waits for threads that wait for a silent peer. What they were doing is as safe as in a crash: an
    intent is committed before its effect, and the next leader repeats it by its token.
    """

    def wait_and_end() -> None:
        while not clock.stopped:
            clock.wait(3600.0)
        threading.Event().wait(END_SECONDS)
        log.warning("something does not answer: this process ends with calls under way, which the next leader takes up")
        os._exit(0)

    threading.Thread(target=wait_and_end, name="last-resort", daemon=True).start()
