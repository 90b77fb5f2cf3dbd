"""What a daemon says of itself in the table: `doctor` compares it with what schedulers say, `status` shows trouble."""

from __future__ import annotations

import threading
from dataclasses import asdict
from typing import TYPE_CHECKING

import reconciler
from reconciler.store.components import ANNOUNCE_EVERY, Component, announce
from reconciler.store.engine import translated, writing

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from reconciler.config import DaemonSettings
    from reconciler.seams import Clock

__all__ = ["announcer"]


def announcer(
    engine: Engine, settings: DaemonSettings, name: str, trouble: Callable[[], str | None], clock: Clock
) -> Callable[[], None]:
    """Says what this daemon is set to and what troubles it, when that changes and once a minute. Used by several
    threads. What it returns raises StoreUnavailable.
    """
    said: tuple[str | None, float] | None = None
    one_at_a_time = threading.Lock()

    def say() -> None:
        nonlocal said
        with one_at_a_time:
            now, what = clock.monotonic(), trouble()
            if said is not None and said[0] == what and now - said[1] < ANNOUNCE_EVERY:
                return
            me = Component("daemon", name, reconciler.__version__, {"options": asdict(settings.shared)}, what)
            with translated(), writing(engine).begin() as conn:
                announce(conn, settings.options.deployment, me)
            said = (what, now)

    return say
