"""How long to wait before trying again."""

from __future__ import annotations

from datetime import timedelta

__all__ = ["delay"]


def delay(failures: int, jitter: float, base: float = 4.0, cap: float = 120.0) -> timedelta:
    """Exponential backoff after the n-th failure in a row, counted from 1, with equal jitter.

    `jitter` in [0, 1) spreads the wait over the upper half of `base * 2 ** (failures - 1)` seconds, at most `cap`.
    """
    # The exponent is cut before it is used: 2.0 ** 2000 is an error, and a workload may wait for days.
    full = min(cap, base * 2.0 ** min(max(failures, 1) - 1, 32))
    return timedelta(seconds=full * (0.5 + 0.5 * jitter))
