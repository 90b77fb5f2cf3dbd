"""Pausing, draining and resuming launches, by a note in the table that daemon and schedulers read."""

from __future__ import annotations

import getpass
import os
import socket
from typing import TYPE_CHECKING, Final

from reconciler.store import holds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from reconciler.core.holds import Mode
    from reconciler.seams import Clock

__all__ = ["drain", "hold", "resume"]

LOOK_EVERY: Final = 2.0
"""Seconds between two looks at what is left."""


def hold(engine: Engine, deployment: str, queue: str, mode: Mode) -> str:
    """Hold launches. Returns what was done, for people. Raises StoreUnavailable."""
    holds.hold(engine, deployment, queue, mode, _who())
    what = f'of the queue "{queue}" ' if queue else ""
    option = f' --queue "{queue}"' if queue else ""
    return f"Nothing {what}is launched any more until `ecs-reconciler resume{option}`. What runs goes on."


def resume(engine: Engine, deployment: str, queue: str) -> str:
    """End a hold. Returns what was done, and what is still held. Raises StoreUnavailable."""
    ended = holds.resume(engine, deployment, queue)
    with engine.begin() as conn:
        others = holds.read_holds(conn, deployment).all()
    what = f'the queue "{queue}"' if queue else "all queues"
    lines = [f"Launches of {what} go on." if ended else f"There was no hold of {what}."]
    return "\n".join([*lines, *(f"Still held: {other}." for other in others)])


def drain(engine: Engine, deployment: str, queue: str, clock: Clock) -> Iterator[str]:
    """Wait until nothing is left, and say how much is, each time that it has changed. Raises StoreUnavailable.

    What waits in a single queue is not waited for: it may stay there until launches go on.
    """
    said, empty = None, 0
    while empty < 2:  # an intent that was being committed as the hold was may show at the second look only
        if said:
            clock.wait(LOOK_EVERY)
        left = holds.left(engine, deployment, queue)
        if left != said:
            said = left
            waiting = (
                f", {left.waiting} task instances wait" if queue else f", {left.waiting} are given back to Airflow"
            )
            yield f"{left.in_flight} ECS tasks are left{waiting if left.waiting else ''}."
        empty = empty + 1 if left.in_flight == 0 and (queue or left.waiting == 0) else 0


def _who() -> str:
    """A name for the note: who held this, and from where."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user often has no name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
