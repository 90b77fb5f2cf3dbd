"""Token buckets for AWS's rate groups, which all of an account and Region share with us.

`Bucket` is arithmetic only. `Limiter` knows which call draws on which buckets and who may go first.
Rates: https://docs.aws.amazon.com/AmazonECS/latest/APIReference/request-throttling.html
"""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from reconciler.core.errors import EcsThrottled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reconciler.seams import Clock

__all__ = ["Bucket", "Call", "Level", "Limiter"]

FLOOR: Final = 1.0
"""Calls per second that are allowed however often ECS refuses: somebody has to find out that it is over."""
RECOVERY: Final = 1.0
"""By how much the allowed rate rises in each second without a refusal."""
LONGEST_WAIT: Final = 0.5
SHORTEST_WAIT: Final = 0.001
"""Seconds between two looks at the buckets: waiting calls come and go, and rates change."""
_ROUNDING: Final = 1e-9


class Call(IntEnum):
    """Kinds of calls, the most urgent first: a stop frees a slot, a listing can always wait."""

    STOP = 0
    LAUNCH = 1
    SWEEP = 2
    LISTING = 3
    CHECK = 4
    """Calls at start-up, a few in all: their AWS groups are not shared with our work."""


_BUCKETS: Final[Mapping[Call, tuple[str, ...]]] = {
    Call.STOP: ("modify",),
    Call.LAUNCH: ("launch", "modify"),
    Call.SWEEP: ("read",),
    Call.LISTING: ("read", "listing"),
    Call.CHECK: (),
}
"""What each call takes one token of. The first is the one that a refusal slows down."""


class Bucket:
    """At most `burst + rate * t` calls in any `t` seconds, and fewer for a while after ECS refused one.

    A refusal halves the allowed rate and empties the bucket; then the rate climbs back. Times are seconds of a
    monotonic clock. Not thread safe.
    """

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate, self.burst = rate, burst
        self.tokens, self.allowed = burst, rate
        self._as_of, self._cut_at = now, float("-inf")

    def advance(self, now: float) -> None:
        """Add the tokens of the time that has passed. The allowed rate climbs meanwhile, hence the square."""
        elapsed = max(0.0, now - self._as_of)
        climbing = min(elapsed, (self.rate - self.allowed) / RECOVERY)
        gained = self.allowed * climbing + RECOVERY * climbing**2 / 2 + self.rate * (elapsed - climbing)
        self.allowed = min(self.rate, self.allowed + RECOVERY * climbing)
        self.tokens = min(self.burst, self.tokens + gained)
        self._as_of = max(self._as_of, now)

    def wait_for(self, tokens: float) -> float:
        """Seconds until so many tokens are there, at the rate of now. 0 if they are."""
        lacking = tokens - self.tokens
        return lacking / self.allowed if lacking > _ROUNDING else 0.0

    def take(self) -> None:
        """Use one token. The caller has seen that it is there."""
        self.tokens -= 1

    def refused(self, now: float, taken_at: float) -> None:
        """ECS refused a call whose token was taken at `taken_at`.

        Calls that were already on their way at the last refusal tell nothing new: many are under way at once, and one
        bad moment must not halve the rate many times.
        """
        self.advance(now)
        if taken_at > self._cut_at:
            self.allowed = max(min(FLOOR, self.rate), self.allowed / 2)
            self.tokens = min(self.tokens, 0.0)
            self._cut_at = now


@dataclass(frozen=True, slots=True)
class Level:
    """A bucket at one moment, for metrics. `allowed` and `rate` are calls per second."""

    tokens: float
    allowed: float
    rate: float
    waiting: int


@dataclass(frozen=True, slots=True, order=True)
class _Turn:
    """A waiting call's place: by urgency, then by `order`, then by arrival."""

    call: Call
    order: float
    arrival: int


class Limiter:
    """Lets calls through at the rates that AWS grants, the most urgent first. Thread safe.

    `launch_rate` and `launch_burst` are calls per second and calls at once of RunTask. The other two are the published
    groups less a tenth, because others draw on them too: RunTask and StopTask share 40 per second with bursts of 100,
    DescribeTasks and ListTasks 20 with bursts of 100. Listings get a quarter of the latter.
    """

    def __init__(self, clock: Clock, *, launch_rate: float, launch_burst: float) -> None:
        self._clock = clock
        now = clock.monotonic()
        self._buckets = {
            "launch": Bucket(launch_rate, launch_burst, now),
            "modify": Bucket(36.0, 90.0, now),
            "read": Bucket(18.0, 90.0, now),
            "listing": Bucket(4.5, 22.0, now),
        }
        self._lock = threading.Lock()
        self._arrivals = itertools.count()
        self._waiting: set[_Turn] = set()

    def start_empty(self) -> None:
        """Forget all saved-up tokens: the leader before us may have used them up a moment ago."""
        with self._lock:
            self._advance()
            for bucket in self._buckets.values():
                bucket.tokens = min(bucket.tokens, 0.0)

    def take(self, call: Call, order: float = 0.0) -> float:
        """Wait until this call may be made; returns when (monotonic). Of one kind the smaller `order` goes first.

        Raises EcsThrottled if the clock's wait ends early, which means that the process was told to stop.
        """
        turn = _Turn(call, order, next(self._arrivals))
        with self._lock:
            self._waiting.add(turn)
        try:
            while True:
                now, delay = self._try(turn)
                if delay == 0:
                    return now
                self._clock.wait(delay)
                if self._clock.monotonic() - now < delay / 2:
                    raise EcsThrottled("the call was still waiting for its turn when the process was told to stop")
        finally:
            with self._lock:
                self._waiting.discard(turn)

    def refused(self, call: Call, taken_at: float) -> None:
        """ECS throttled a call that `take` let through at `taken_at`."""
        with self._lock:
            for name in _BUCKETS[call][:1]:
                self._buckets[name].refused(self._clock.monotonic(), taken_at)

    def levels(self) -> dict[str, Level]:
        """All buckets by name."""
        with self._lock:
            self._advance()
            return {
                name: Level(bucket.tokens, bucket.allowed, bucket.rate, self._ahead(name, None))
                for name, bucket in self._buckets.items()
            }

    def _try(self, turn: _Turn) -> tuple[float, float]:
        """Take the tokens if the more urgent calls leave enough of them, else say how long to wait."""
        with self._lock:
            now = self._advance()
            names = _BUCKETS[turn.call]
            wait = max((self._buckets[name].wait_for(1 + self._ahead(name, turn)) for name in names), default=0.0)
            if wait > 0:
                return now, min(max(wait, SHORTEST_WAIT), LONGEST_WAIT)
            for name in names:
                self._buckets[name].take()
            # In the same breath as the tokens, or the next in line would count this call twice.
            self._waiting.discard(turn)
            return now, 0.0

    def _advance(self) -> float:
        now = self._clock.monotonic()
        for bucket in self._buckets.values():
            bucket.advance(now)
        return now

    def _ahead(self, name: str, turn: _Turn | None) -> int:
        """How many waiting calls want this bucket, before `turn` or in all."""
        return sum(1 for other in self._waiting if name in _BUCKETS[other.call] and (turn is None or other < turn))
