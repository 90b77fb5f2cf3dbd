"""Rates: what buckets promise about any stretch of time, and who goes first."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.errors import EcsThrottled
from reconciler.ecs.ratelimit import Bucket, Call, Limiter
from tests.ecs.world import MachineClock, SteppedClock, VirtualClock, eventually

rates = st.floats(min_value=0.5, max_value=100)
bursts = st.floats(min_value=1, max_value=100)
# (seconds that pass, calls that want to go, whether ECS then refuses one)
steps = st.lists(
    st.tuples(st.floats(min_value=0, max_value=20), st.integers(min_value=0, max_value=30), st.booleans()), max_size=60
)


@given(rates, bursts, steps)
def test_no_stretch_of_time_sees_more_than_burst_and_rate(
    rate: float, burst: float, steps: list[tuple[float, int, bool]]
) -> None:
    bucket, now, taken = Bucket(rate, burst, 0.0), 0.0, list[float]()
    for elapsed, wanted, refused in steps:
        now += elapsed
        bucket.advance(now)
        for _ in range(wanted):
            if bucket.wait_for(1) == 0:
                bucket.take()
                taken.append(now)
        if refused:
            bucket.refused(now, now)
        assert bucket.tokens <= burst
        assert min(1.0, rate) <= bucket.allowed <= rate
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            assert last - first + 1 <= burst + rate * (taken[last] - taken[first]) + 1e-6


@given(rates, bursts, st.floats(min_value=0, max_value=60))
def test_after_a_refusal_the_rate_is_half_and_climbs_by_one_each_second(
    rate: float, burst: float, elapsed: float
) -> None:
    bucket = Bucket(rate, burst, 0.0)
    bucket.refused(0.0, 0.0)
    half = bucket.allowed
    assert half == max(min(1.0, rate), rate / 2)
    taken, now = 0, 0.0
    while now < elapsed:
        now = min(elapsed, now + 0.25)
        bucket.advance(now)
        while bucket.wait_for(1) == 0:
            bucket.take()
            taken += 1
    assert bucket.allowed == pytest.approx(min(rate, half + elapsed))
    assert taken <= half * elapsed + elapsed**2 / 2 + 1e-6
    assert taken <= rate * elapsed + 1e-6


@given(rates, bursts, st.floats(min_value=0.01, max_value=10), st.integers(min_value=1, max_value=100))
def test_time_cut_into_pieces_gives_the_same_tokens(rate: float, burst: float, elapsed: float, pieces: int) -> None:
    whole, cut = Bucket(rate, burst, 0.0), Bucket(rate, burst, 0.0)
    for bucket in (whole, cut):
        bucket.refused(0.0, 0.0)
    whole.advance(elapsed)
    for piece in range(pieces):
        cut.advance(elapsed * (piece + 1) / pieces)
    assert cut.tokens == pytest.approx(whole.tokens, abs=1e-6)
    assert cut.allowed == pytest.approx(whole.allowed, abs=1e-6)


def test_calls_under_way_together_halve_the_rate_once() -> None:
    bucket = Bucket(20, 10, 0.0)
    for _ in range(5):
        bucket.refused(1.0, taken_at=0.5)
    assert bucket.allowed == 10
    bucket.advance(2.0)
    bucket.refused(2.0, taken_at=1.5)
    assert bucket.allowed == 5.5


def test_the_rate_never_falls_below_one_call_a_second() -> None:
    bucket = Bucket(20, 10, 0.0)
    for n in range(1, 50):
        bucket.refused(n * 0.001, taken_at=n * 0.001)
    assert bucket.allowed == 1.0


def test_a_clock_that_steps_back_gives_nothing() -> None:
    bucket = Bucket(10, 10, 100.0)
    bucket.tokens = 0.0
    bucket.advance(50.0)
    bucket.advance(100.0)
    assert bucket.tokens == 0.0


def limiter(clock: VirtualClock | None = None, launch_rate: float = 19.8, launch_burst: float = 16) -> Limiter:
    return Limiter(clock or VirtualClock(), launch_rate=launch_rate, launch_burst=launch_burst)


def test_five_hundred_launches_take_what_the_rate_allows() -> None:
    clock = VirtualClock()
    limit, began = limiter(clock), clock.monotonic()
    for _ in range(500):
        limit.take(Call.LAUNCH)
    least = (500 - 16) / 19.8
    assert least - 1e-6 <= clock.monotonic() - began <= 1.001 * least


def test_listings_get_a_quarter_of_the_reads() -> None:
    clock = VirtualClock()
    limit, began = limiter(clock), clock.monotonic()
    for _ in range(200):
        limit.take(Call.LISTING)
    assert clock.monotonic() - began >= (200 - 22) / 4.5 - 1e-6
    for _ in range(50):
        before = clock.monotonic()
        limit.take(Call.SWEEP)
        assert clock.monotonic() == before


def test_stops_draw_on_the_launches_group() -> None:
    clock = VirtualClock()
    limit = limiter(clock, launch_rate=1000, launch_burst=1000)
    for _ in range(90):
        limit.take(Call.STOP)
    before = clock.monotonic()
    limit.take(Call.LAUNCH)
    assert clock.monotonic() - before == pytest.approx(1 / 36)


def test_checks_at_start_up_never_wait() -> None:
    clock = VirtualClock()
    limit = limiter(clock)
    limit.start_empty()
    before = clock.monotonic()
    limit.take(Call.CHECK)
    assert clock.monotonic() == before


def test_after_a_take_over_the_first_call_waits() -> None:
    clock = VirtualClock()
    limit = limiter(clock)
    limit.start_empty()
    assert {level.tokens for level in limit.levels().values()} == {0.0}
    before = clock.monotonic()
    limit.take(Call.LAUNCH)
    assert clock.monotonic() - before == pytest.approx(1 / 19.8)


def test_a_refused_launch_leaves_stops_alone() -> None:
    limit = limiter()
    limit.refused(Call.LAUNCH, limit.take(Call.LAUNCH))
    levels = limit.levels()
    assert (levels["launch"].allowed, levels["launch"].rate) == (9.9, 19.8)
    assert levels["modify"].allowed == levels["modify"].rate == 36.0


@pytest.mark.parametrize("call", [Call.SWEEP, Call.LISTING])
def test_a_refused_look_slows_all_looks(call: Call) -> None:
    limit = limiter()
    limit.refused(call, limit.take(call))
    assert limit.levels()["read"].allowed == 9.0


class StoppedClock(VirtualClock):
    """The process was told to stop: nobody waits any more."""

    def wait(self, seconds: float) -> None:
        del seconds


def test_who_waits_when_the_process_stops_is_let_go() -> None:
    limit = limiter(StoppedClock())
    limit.start_empty()
    with pytest.raises(EcsThrottled):
        limit.take(Call.LAUNCH)
    assert limit.levels()["launch"].waiting == 0


def test_the_most_urgent_waiting_call_goes_first_and_of_launches_the_oldest() -> None:
    clock = SteppedClock()
    limit = Limiter(clock, launch_rate=1000, launch_burst=1000)
    limit.start_empty()
    clock.step(0.001)
    gone: list[str] = []

    def go(name: str, call: Call, order: float) -> None:
        limit.take(call, order)
        gone.append(name)

    callers = [
        ("new launch", Call.LAUNCH, 30.0),
        ("newest launch", Call.LAUNCH, 40.0),
        ("repeated launch", Call.LAUNCH, 10.0),
        ("stop", Call.STOP, 0.0),
        ("second stop", Call.STOP, 0.0),
    ]
    threads = []
    for number, caller in enumerate(callers, start=1):
        threads.append(threading.Thread(target=go, args=caller))
        threads[-1].start()
        eventually(lambda number=number: clock.waiting == number)  # type: ignore[misc] # a lambda with a default has no type
    for number in range(1, len(callers) + 1):
        # Enough for one call at 36 per second, not for two. Each may have looked just before the step.
        clock.step(0.028)
        eventually(lambda number=number: len(gone) >= number)  # type: ignore[misc] # the same
        assert len(gone) == number
    for thread in threads:
        thread.join()
    assert gone == ["stop", "second stop", "repeated launch", "new launch", "newest launch"]


def test_many_threads_together_keep_the_rate() -> None:
    limit = Limiter(MachineClock(), launch_rate=200, launch_burst=10)
    began = time.monotonic()
    taken: list[float] = []

    def go() -> None:
        for _ in range(10):
            limit.take(Call.STOP)
            taken.append(limit.take(Call.LAUNCH))

    threads = [threading.Thread(target=go) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken.sort()
    assert len(taken) == 60
    assert taken[-1] - began >= (60 - 10) / 200 - 1e-3
    assert all(early <= late for early, late in pairwise(taken))
    assert {level.waiting for level in limit.levels().values()} == {0}
